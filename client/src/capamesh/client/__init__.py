"""The SDK: numpy arrays in, numpy arrays out, through any router.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.infer("digits", {"X": rows})

`AsyncClient` has the same methods. Errors are the classes of `capamesh.protocol.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.client.answers import HeldList, ModelEntry, ModelMetadata, Outputs
from capamesh.client.arrays import InputValue
from capamesh.client.class_scores import ClassScore
from capamesh.client.routing_options import RoutingOptions
from capamesh.client.sync_client import Client
from capamesh.protocol.tensors import Datatype, Limits, Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.client.async_client import AsyncClient

__all__ = [
    "AsyncClient",
    "ClassScore",
    "Client",
    "Datatype",
    "HeldList",
    "InputValue",
    "Limits",
    "ModelEntry",
    "ModelMetadata",
    "Outputs",
    "RoutingOptions",
    "Tensor",
    "TensorSpec",
]


def __getattr__(name: str) -> object:
    """Import `AsyncClient` when it is asked for: aiohttp takes longer to import than all the rest."""
    if name == "AsyncClient":
        from capamesh.client.async_client import AsyncClient  # noqa: PLC0415 - see above

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
