"""The JSON of the routes that load and unload models, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from capamesh.protocol.schema import Meta

Count = Annotated[int, Meta(ge=0)]


class ChangeParameters(TypedDict):
    """The parameters of a load or unload."""

    nodes: NotRequired[Annotated[int, Meta(ge=1, le=100_000)]]
    """The number of nodes that are to make the change; left out: all that have the model in their folders."""
    version: NotRequired[str]
    """The version; left out: all that the model's policy names."""
    unload_dependents: NotRequired[Literal[False]]
    """The value that Triton's clients send; no other is taken."""


class RepositoryRequest(TypedDict):
    """A load or unload."""

    parameters: NotRequired[ChangeParameters]


class Changed(TypedDict):
    """One node that was asked."""

    peer_id: str
    name: str
    """The node's name; empty: it has none."""
    code: NotRequired[str]
    """The code of the error with which it refused."""
    error: NotRequired[str]
    """The reason why it refused."""


class RepositoryReport(TypedDict):
    """The outcome of a load or unload."""

    model: str
    action: Literal["load", "unload"]
    made_count: Count
    made: list[Changed]
    """The nodes that have made the change, the first thousand."""
    refused_count: Count
    refused: list[Changed]
    """The nodes that have not, the first thousand."""
