"""One version of a model as the fleet hosts it, and how the versions of a model rank. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.fleet.request_counts import RequestCounts

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.ownership.owners import Owners

NO_VERSION: Final = ModelVersion("")


class HostedVersion:
    """One version of a model: which nodes say to have it ready, and where it can be reached.

    It is the same object for as long as anybody holds it, also while no node has the version.
    """

    def __init__(self) -> None:
        self.offers: dict[PeerId, ModelOffer] = {}
        """The offers of all nodes that host it, also of nodes that cannot be reached, which is another error than a model that
        no node has. The offer of a replica that is away is the one it had when it was ready."""
        self.away: set[PeerId] = set()
        """The nodes among them that had it ready and are loading it again."""
        self.by_endpoint: dict[Endpoint, Replica] = {}
        """The replicas; `members_changed` is to be called after each change of which they are."""
        self.requests = RequestCounts()

    @cached_property
    def replicas(self) -> tuple[Replica, ...]:
        """Return the replicas at which it can be reached; the same tuple for as long as its members are the same.

        It is made for the first who asks after a change, so that ten thousand nodes that join in a row make none. Whoever asks
        again reads an attribute and calls nothing.
        """
        return tuple(self.by_endpoint.values())

    def members_changed(self) -> None:
        """Let the tuple of replicas be made anew: its members are others now."""
        self.__dict__.pop("replicas", None)

    def drop(self, endpoints: Iterable[Endpoint]) -> bool:
        """Remove the endpoints' replicas and return whether there were any."""
        is_any = False
        for endpoint in endpoints:
            replica = self.by_endpoint.pop(endpoint, None)
            if replica is not None:
                replica.set_gone()
                is_any = True
        return is_any


class Ranking(NamedTuple):
    """The versions of a model that a request which names none may go to."""

    trusted: frozenset[ModelVersion]
    newest: ModelVersion
    """The largest trusted one that can be had, or is hosted at all; "" when none is trusted."""
    trials: tuple[ModelVersion, ...]
    """The versions that are newer than all trusted ones, and get a small share of such requests."""


NO_RANKING: Final = Ranking(frozenset(), NO_VERSION, ())
"""The ranking of a model that no node has."""


def rank(
    model: ModelName, versions: Mapping[ModelVersion, HostedVersion], owners: Owners | None
) -> Ranking:
    """Return how the versions of a model rank; without `owners`, all are trusted."""
    trusted = frozenset(
        version for version in versions if owners is None or owners.is_trusted(model, version)
    )
    with_replicas = [
        version
        for version in trusted
        if versions[version].by_endpoint
        and len(versions[version].away) < len(versions[version].offers)
    ]
    newest = max(with_replicas or trusted, key=int, default=NO_VERSION)
    trials: tuple[ModelVersion, ...] = ()
    if owners is not None and newest and len(trusted) < len(versions):
        trials = tuple(
            version
            for version in sorted(versions.keys() - trusted, key=int)
            if int(version) > int(newest) and owners.may_try(model, version)
        )
    return Ranking(trusted, newest, trials)
