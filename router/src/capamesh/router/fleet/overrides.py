"""The operator's overrides of health: a node is used never, or always. Holds state, does no IO.

Overrides are kept by peer and not where they take effect, for that comes and goes: a node that restarts or dials again
gets new endpoints, and a model that is loaded anew a new replica. `apply` is to be called whenever there may be such.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.resilience.health import CircuitState, Health

if TYPE_CHECKING:
    from capamesh.router.fleet.view import FleetView

_NODE = (ModelName(""), ModelVersion(""))


@dataclass(frozen=True, slots=True)
class Hold:
    """The override of a node, or of one of its models."""

    peer: PeerId
    model: ModelName
    """The model; empty for the node as a whole."""
    version: ModelVersion
    """The version; empty for all versions of the model."""
    state: CircuitState | None
    """`FORCED_OPEN`: gets no requests; `FORCED_CLOSED`: whatever is known against it is ignored; None: as it goes,
    although all versions of the model are held."""


class Overrides:
    """All that was said and not taken back. The more exact word counts: a version's before its model's."""

    def __init__(self) -> None:
        self._by_peer: dict[PeerId, dict[tuple[ModelName, ModelVersion], CircuitState | None]] = {}

    @override
    def __repr__(self) -> str:
        return f"Overrides(of {len(self._by_peer)} nodes)"

    @property
    def peers(self) -> list[PeerId]:
        """Return the peers that have an override, in the fleet or not."""
        return list(self._by_peer)

    def of(self, peer: PeerId) -> list[Hold]:
        """Return what was said of a node, in the order in which it was."""
        return [Hold(peer, *what, state) for what, state in self._by_peer.get(peer, {}).items()]

    def hold(self, said: Hold) -> None:
        """Take the operator's word; it replaces what was said of any part of the same.

        To let go of a node is to let go of its models too.
        """
        held = self._by_peer.setdefault(said.peer, {})
        what = (said.model, said.version)
        for known in list(held):
            if known == what or (
                not said.version and (known[0] == said.model or (what == _NODE and not said.state))
            ):
                del held[known]
        is_exception = bool(said.version) and (said.model, ModelVersion("")) in held
        if said.state is not None or is_exception:
            held[what] = said.state
        if not held:
            del self._by_peer[said.peer]

    def apply(self, fleet: FleetView, peer: PeerId, now_s: float) -> None:
        """Hold whatever of the node there is now as was said, if anything was; `now_s` is the healths' clock."""
        if peer in self._by_peer:
            self.apply_anew(fleet, peer, now_s)

    def apply_anew(self, fleet: FleetView, peer: PeerId, now_s: float) -> None:
        """Likewise, and let go of what was held before."""
        held = self._by_peer.get(peer, {})
        for endpoint in fleet.endpoints_of(peer):
            _hold(endpoint.health, held.get(_NODE), now_s)
            for replica in fleet.replicas_at(endpoint):
                name, version = replica.offer.name, replica.offer.version
                every = held.get((name, ModelVersion("")))
                _hold(replica.health, held.get((name, version), every), now_s)


def _hold(health: Health, state: CircuitState | None, now_s: float) -> None:
    health.hold(state)
    health.may_send(now_s)  # who is let go of and well is full again at once
