"""A router as one process: what it is made of, its life, and what it says of itself."""
