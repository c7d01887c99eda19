"""The paths of a router's routes with a value in each of their parts, for tests that ask all of them."""

from __future__ import annotations

from typing import Final

VALUES: Final = {
    "model": "m",
    "version": "1",
    "peer": "A",
    "job": "job-1",
    "digest": "d",
    "name": "n",
    "region": "r",
    "file": "file-1",
    "batch": "batch_1",
    "upload": "upload_0",
}


def filled(path: str, **values: str) -> str:
    """Return a route's path with a value for each name in braces: that of `values`, or else of `VALUES`."""
    return path.format_map(VALUES | values)
