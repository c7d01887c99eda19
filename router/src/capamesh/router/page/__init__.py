"""The page that a router shows at its address: what is on it, and how it stays current."""
