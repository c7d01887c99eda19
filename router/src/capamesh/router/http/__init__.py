"""The HTTP wire: connections, heads and bodies, the routes, and how results become replies."""
