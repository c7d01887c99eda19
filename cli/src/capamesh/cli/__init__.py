"""The `capamesh` command: arguments and printing."""
