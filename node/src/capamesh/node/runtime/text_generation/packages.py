"""The packages of generation, which a node may go without. Pure."""

from __future__ import annotations

from capamesh.protocol.errors import ModelInvalid


def missing(package: str) -> ModelInvalid:
    """Return why a model that generates texts cannot be served: `package` is not installed."""
    return ModelInvalid(
        f"it generates texts, which needs the package {package!r} on the node: pip install 'capamesh[generation]'"
    )
