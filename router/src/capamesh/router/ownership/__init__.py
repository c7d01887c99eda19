"""Decides which file a model's version is, and which versions are trusted: pins, votes, signatures. Pure."""
