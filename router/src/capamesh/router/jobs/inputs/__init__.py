"""Readers of inputs: ranges of rows for a plan, and the rows of a range, in a bounded window of memory."""
