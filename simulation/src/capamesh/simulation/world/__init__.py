"""Whole fleets in one event loop and virtual time: production routers, nodes and jobs, with faults that a seed draws."""
