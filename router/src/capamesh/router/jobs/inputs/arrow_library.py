"""Loads pyarrow once something needs it; its only importer, for others too. IO: that.

It is large, in an extra of its own, and has no types.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from capamesh.protocol.errors import ConfigError


def arrow(name: str = "pyarrow") -> Any:  # noqa: ANN401 - the library has no types
    """Return pyarrow, or a module of it; raises `ConfigError` where it is missing."""
    try:
        return import_module(name)
    except ImportError as exc:
        raise ConfigError(
            "Parquet and Arrow files need pyarrow, which is not here: pip install 'capamesh[jobs]'"
        ) from exc
