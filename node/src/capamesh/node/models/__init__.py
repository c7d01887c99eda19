"""The models of a worker: which are loaded, how they are loaded, and which give way."""
