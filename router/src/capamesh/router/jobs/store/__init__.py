"""The store of jobs, kept where all routers that share them find it."""
