"""The JSON of the page at `/`, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from capamesh.protocol.schema import Meta


class ListedRoute(TypedDict):
    """A route in the list."""

    method: str
    path: str
    does: str
    """The thing that it does, in a sentence."""


class RouteList(TypedDict):
    """The router, and its routes."""

    name: str
    version: str
    routes: list[ListedRoute]


OpenApi = dict[str, Any]
"""A description of all routes, as the OpenAPI Specification has it."""


class Snapshot(TypedDict):
    """All that the page shows of now. Its rows are the page's own, and may change with any version."""

    revision: str
    """The name of this moment, from which `/v1/page/changes` goes on."""
    router: dict[str, Any]
    nodes: dict[str, dict[str, Any]]
    """A row a node, by its peer id."""
    models: dict[str, dict[str, Any]]
    """A row a model version, by name and version."""


class History(TypedDict):
    """The measurements, newest last."""

    model: str
    """The model; empty: the router."""
    point_s: Annotated[float, Meta(gt=0)]
    """The seconds of one point."""
    models: list[str]
    """The models that have a history."""
    series: dict[str, list[float | None]]
    """The points by what was measured; null where nothing was."""
