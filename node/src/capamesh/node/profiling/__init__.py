"""Measurements of a model before it serves: time, memory, and whether rows of a batch are independent."""
