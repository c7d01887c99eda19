"""The devices and the host: memory, limits, and what was running when a worker ended."""
