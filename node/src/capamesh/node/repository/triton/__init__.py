"""Triton's `config.pbtxt` files, read as this node's own rules."""
