"""The answers that a router keeps for requests that are equal: keys, entries, and which of them stay."""
