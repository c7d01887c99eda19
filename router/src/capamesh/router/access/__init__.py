"""Who may do what at a router."""
