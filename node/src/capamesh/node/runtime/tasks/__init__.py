"""The tasks of models: what becomes of texts, pictures and files before a run, and of its outputs after it."""
