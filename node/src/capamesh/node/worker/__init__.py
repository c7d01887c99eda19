"""The worker: the process of one device. It owns the model sessions and answers the links itself."""
