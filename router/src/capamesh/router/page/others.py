"""The figures of a router's other processes, which the page adds to those of its own. Holds what it was told last, does no IO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.view import FleetView

Links: TypeAlias = list[tuple[str, str, int, int, int]]
"""Links by peer and address, each with its requests in flight, answered and failed."""
Models: TypeAlias = list[tuple[str, str, int]]
"""Model versions, each with its requests in flight."""
_NOTHING: Final = (0, 0, 0)


class OthersFigures:
    """The figures of the others; there are none while nothing was told."""

    def __init__(self) -> None:
        self._links: Mapping[tuple[str, str], Sequence[int]] = {}
        self._models: Mapping[tuple[str, str], int] = {}
        self._traffic: Mapping[str, Mapping[str, Any]] | None = None

    def take(self, links: Links, models: Models, traffic: Mapping[str, Mapping[str, Any]]) -> None:
        """Take what the others have by now; `traffic` is of all processes together."""
        self._links = {(peer, address): counts for peer, address, *counts in links}
        self._models = {(name, version): count for name, version, count in models}
        self._traffic = traffic

    def of_link(self, endpoint: Endpoint) -> Sequence[int]:
        """Return the requests in flight, answered and failed of the others' links to an address."""
        return self._links.get((endpoint.peer, endpoint.address), _NOTHING)

    def of_model(self, name: str, version: str) -> int:
        """Return the requests of the others that are in flight."""
        return self._models.get((name, version), 0)

    def traffic(self, model: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what is known of a model's requests: of all processes where that was told, else `own`."""
        return own if self._traffic is None else self._traffic.get(model, {})


def figures_of(fleet: FleetView) -> tuple[Links, Models]:
    """Return what a process has to tell the others: the links and models with any count."""
    links: Links = []
    models: dict[tuple[str, str], int] = {}
    for endpoint in fleet.endpoints():
        counts = (endpoint.rif, endpoint.answered, endpoint.failed)
        if any(counts):
            links.append((endpoint.peer, endpoint.address, *counts))
        if endpoint.rif:
            for replica in fleet.replicas_at(endpoint):
                key = (replica.offer.name, replica.offer.version)
                models[key] = models.get(key, 0) + replica.rif
    return links, [(*key, count) for key, count in models.items() if count]


def added(parts: Iterable[tuple[Links, Models]]) -> tuple[Links, Models]:
    """Return the sum of the figures of several processes."""
    links: dict[tuple[str, str], tuple[int, int, int]] = {}
    models: dict[tuple[str, str], int] = {}
    for of_links, of_models in parts:
        for peer, address, in_flight, answered, failed in of_links:
            known = links.get((peer, address), _NOTHING)
            links[peer, address] = (known[0] + in_flight, known[1] + answered, known[2] + failed)
        for name, version, count in of_models:
            models[name, version] = models.get((name, version), 0) + count
    return (
        [(*key, *counts) for key, counts in links.items()],
        [(*key, count) for key, count in models.items()],
    )
