"""Uploaded files: their bytes on the disk, and what is checked of them."""
