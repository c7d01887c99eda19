"""The JSON that routes take and answer, as types: they are described to clients by these."""
