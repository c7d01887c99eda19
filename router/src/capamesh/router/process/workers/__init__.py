"""A router as several processes: one main process, and workers that serve requests. `messages` is all that both share."""
