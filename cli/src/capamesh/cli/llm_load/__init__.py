"""Load on a language model, and what is measured of it: `capamesh bench-llm`."""
