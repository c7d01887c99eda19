"""The checks of `capamesh doctor`: facts are read by probes, and judged by pure functions."""
