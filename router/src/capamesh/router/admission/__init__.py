"""Decides which requests are taken at all when there are more than the fleet can answer in time. Pure."""
