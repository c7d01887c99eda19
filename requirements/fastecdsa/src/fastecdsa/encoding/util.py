"""The width of numbers in bytes, which libp2p takes at import. Pure."""

from __future__ import annotations


def int_bytelen(number: int) -> int:
    """Return the fewest bytes that hold a number of at least 0; 0 for 0."""
    return (number.bit_length() + 7) // 8
