"""Access to a router: who may do what."""
