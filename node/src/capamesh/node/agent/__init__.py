"""The agent process: it supervises the workers and advertises what they serve."""
