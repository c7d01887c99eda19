"""The replicas and endpoints that are not well: which to probe again, and the verdicts on them. Holds state, does no IO.

Whatever takes a replica or an endpoint out is noted here, so that the whole fleet need not be looked through for the
few that need care.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.resilience.health import CircuitState, Health

if TYPE_CHECKING:
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.replica import Replica

MAX_VERDICTS = 1_000
"""The most verdicts that are kept until they are asked for; the oldest are dropped (guess: they are for a log)."""


@dataclass(frozen=True, slots=True)
class Inhibited:
    """The verdict that it gets no requests for the moment. `model` and `version` are empty when all its models are meant."""

    peer: PeerId
    address: str
    model: ModelName | str
    version: ModelVersion | str
    reason: str


@dataclass(frozen=True, slots=True)
class Ejected:
    """The verdict that it gets no requests for long, but for a few trials."""

    peer: PeerId
    address: str
    model: ModelName | str
    version: ModelVersion | str
    reason: str


@dataclass(frozen=True, slots=True)
class Returned:
    """The verdict that it gets requests again, at first perhaps only some; `reason` is why it had none."""

    peer: PeerId
    address: str
    model: ModelName | str
    version: ModelVersion | str
    reason: str


@dataclass(frozen=True, slots=True)
class Slowed:
    """The verdict that it has become slow beside the others; its share of requests is the policy's matter."""

    peer: PeerId
    address: str
    model: ModelName | str
    version: ModelVersion | str
    reason: str


Verdict = Inhibited | Ejected | Returned | Slowed

_OUT: dict[CircuitState, type[Inhibited | Ejected | Returned]] = {
    CircuitState.INHIBITED: Inhibited,
    CircuitState.EJECTED: Ejected,
}


class _Trouble:
    """One health that is not full, by what it is the health of."""

    __slots__ = ("health", "model", "replica", "shown", "version")

    def __init__(self, replica: Replica, *, is_of_endpoint: bool) -> None:
        self.replica = replica
        """The replica to probe for it."""
        self.health = replica.endpoint.health if is_of_endpoint else replica.health
        self.model = "" if is_of_endpoint else replica.offer.name
        self.version = "" if is_of_endpoint else replica.offer.version
        self.shown = CircuitState.CLOSED

    @property
    def is_over(self) -> bool:
        """Return whether nothing is sent there any more."""
        if self.model:
            return self.replica.is_gone
        endpoint = self.replica.endpoint
        return endpoint.is_retired or (self.replica.is_gone and endpoint.link is None)


class UnhealthySet:
    """All replicas and endpoints of a router that are not fully well."""

    __slots__ = ("_verdicts", "noted")

    def __init__(self) -> None:
        self.noted: dict[Health, _Trouble] = {}
        """The notes on those that may be not well; empty while all are well."""
        self._verdicts: deque[Verdict] = deque(maxlen=MAX_VERDICTS)

    @override
    def __repr__(self) -> str:
        return f"UnhealthySet({len(self.noted)})"

    def note(self, replica: Replica, now_s: float) -> None:
        """Take note of a replica whose health, or whose endpoint's, has just been told something bad."""
        endpoint: Endpoint = replica.endpoint
        if not replica.health.is_full:
            self._note(replica, replica.health, now_s, is_of_endpoint=False)
        if not endpoint.health.is_full:
            self._note(replica, endpoint.health, now_s, is_of_endpoint=True)

    def reprobes(self, now_s: float) -> list[Replica]:
        """Return whom to probe now for a sign of life, at most once each until `probe_due` again."""
        due: list[Replica] = []
        for trouble in self.noted.values():
            health, endpoint = trouble.health, trouble.replica.endpoint
            link = endpoint.link
            if link is not None and link.is_usable and health.probe_due(now_s):
                health.probe_asked(now_s)
                if trouble.replica not in due:
                    due.append(trouble.replica)
        return due

    def settle(self, now_s: float) -> list[Verdict]:
        """Forget who is well again or gone; return what has happened since the last call, oldest first."""
        for health, trouble in list(self.noted.items()):
            self._show(trouble, now_s)
            if health.is_full or trouble.is_over:
                del self.noted[health]
        verdicts = list(self._verdicts)
        self._verdicts.clear()
        return verdicts

    def _note(
        self, replica: Replica, health: Health, now_s: float, *, is_of_endpoint: bool
    ) -> None:
        trouble = self.noted.get(health)
        if trouble is None:
            trouble = self.noted[health] = _Trouble(replica, is_of_endpoint=is_of_endpoint)
        elif trouble.replica.is_gone:
            trouble.replica = replica
        self._show(trouble, now_s)

    def _show(self, trouble: _Trouble, now_s: float) -> None:
        state = trouble.health.state(now_s)
        before, trouble.shown = trouble.shown, state
        if state is before:
            return
        kind = _OUT.get(state)
        if kind is None:
            if before not in _OUT or state not in {CircuitState.CLOSED, CircuitState.RAMPING}:
                return
            kind = Returned
        endpoint = trouble.replica.endpoint
        self._verdicts.append(
            kind(
                endpoint.peer,
                endpoint.address,
                trouble.model,
                trouble.version,
                trouble.health.reason,
            )
        )
