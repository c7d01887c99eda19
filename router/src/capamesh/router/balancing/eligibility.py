"""Who may get a request, as a fast yes or no and as the reason for people: the same rules. Pure.

Filtering comes before choosing (as in llm-d's scheduler): a policy ranks those that are eligible. Some rules
nothing overrides: what the caller asked for, the operator's word, a missing link. The others are preferences,
and when they leave nobody, `last_resort` names the one that breaks them least: a request is not failed by its
router while there is a node that might answer it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from capamesh.router.resilience.health import CircuitState, Health

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.endpoint import Candidate
    from capamesh.router.fleet.replica import Host

T = TypeVar("T", bound=str)

DEADLINE_DOUBT = 0.02
"""This part of all requests does not believe that a host is too slow for them (guess): what a host tells is of
its last answers, and who is never asked again could never tell that it is faster now."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a request asks of who runs it. None: anything will do; an empty set: nothing will."""

    max_price: float = math.inf
    """For a million rows, in the network's unit, as `NodeAdvert.price_per_million`."""
    regions: frozenset[str] | None = None
    device_kinds: frozenset[str] | None = None
    peers: frozenset[PeerId] | None = None
    """The only nodes to be trusted with it."""

    def both(self, other: Constraints) -> Constraints:
        """Return what meets these and the others."""
        if other == ANYWHERE:
            return self
        if self == ANYWHERE:
            return other
        return Constraints(
            min(self.max_price, other.max_price),
            _both(self.regions, other.regions),
            _both(self.device_kinds, other.device_kinds),
            _both(self.peers, other.peers),
        )

    def are_met_by(self, host: Host) -> bool:
        """Return whether `refusal` has nothing to say."""
        advert = host.advert
        return (
            advert.price_per_million <= self.max_price
            and (self.regions is None or advert.region in self.regions)
            and (self.device_kinds is None or device_kinds(host) <= self.device_kinds)
            and (self.peers is None or advert.peer in self.peers)
        )

    def refusal(self, host: Host) -> str:
        """Return which of these the host does not meet; empty: none."""
        advert = host.advert
        if not advert.price_per_million <= self.max_price:
            return f"price {advert.price_per_million} is over the cap {self.max_price}"
        if self.regions is not None and advert.region not in self.regions:
            return f"region {advert.region or 'unknown'} is not {_one_of(self.regions)}"
        if self.device_kinds is not None:
            kinds = device_kinds(host)
            if not kinds <= self.device_kinds:
                return f"device {' or '.join(sorted(kinds))} is not {_one_of(self.device_kinds)}"
        if self.peers is not None and advert.peer not in self.peers:
            return "not one of the nodes that the request names"
        return ""


ANYWHERE = Constraints()


class Eligibility:
    """The rules for one choice. Made once a request; `asked`, `now_s` and `luck` are new for each choice.

    `luck` is drawn from [0, 1) once a choice: a host whose share of requests is reduced takes part in those
    with less luck than its share. One draw for all hosts, so that asking twice is answered the same.
    """

    __slots__ = ("asked", "constraints", "deadline_s", "is_panicking", "luck", "now_s")

    def __init__(
        self,
        constraints: Constraints = ANYWHERE,
        deadline_s: float = math.inf,
        *,
        asked: Collection[Host] = (),
        now_s: float = 0.0,
        luck: float = 0.5,
        is_panicking: bool = False,
    ) -> None:
        self.constraints = constraints
        self.deadline_s = deadline_s
        """On the clock of `now_s`."""
        self.asked = asked
        self.now_s = now_s
        self.luck = luck
        self.is_panicking = is_panicking
        """So many are ejected that an ejection says more of the fleet than of a host (Envoy's panic threshold)."""

    def allows(self, host: Host) -> bool:
        """Return whether `refusal` is empty. Costs about 0.5 us for a healthy host."""
        candidate = host.candidate
        link = candidate.link
        if (
            link is None
            or not link.is_usable
            or candidate.is_draining
            or candidate.is_retired
            or candidate.is_suspected
            or host.is_out
            or host in self.asked
        ):
            return False
        if not host.health.is_full and not self._is_lucky(host.health):
            return False
        if not candidate.health.is_full and not self._is_lucky(candidate.health):
            return False
        if self.constraints is not ANYWHERE and not self.constraints.are_met_by(host):
            return False
        return (
            host.service_s() + candidate.network.rtt_s <= self.deadline_s - self.now_s
            or self.luck < DEADLINE_DOUBT
        )

    def is_open(self, host: Host) -> bool:
        """Return whether the host may be asked and nothing is wrong with it that is known.

        That it asked for a moment's rest or seems too slow is nothing wrong. One that recovers is open to its share
        of requests, one that is ejected to none, not even in a trial. Costs about 0.3 us for a healthy host.
        """
        candidate = host.candidate
        if not candidate.is_usable or host.is_out or host in self.asked:
            return False
        for health in (host.health, candidate.health):
            if not health.is_full and not self._is_well(health):
                return False
        return self.constraints is ANYWHERE or self.constraints.are_met_by(host)

    def is_there(self, host: Host) -> bool:
        """Return whether `obstacle` has nothing to say: the host may be asked, be it well or not."""
        return not self.obstacle(host)

    def lacks_link(self, host: Host) -> bool:
        """Return whether a link, or a model that is loaded again, is all that the host lacks to be asked."""
        candidate, link = host.candidate, host.candidate.link
        return (
            (link is None or not link.is_usable or host.is_away)
            and not (candidate.is_draining or candidate.is_retired or host.is_gone)
            and host not in self.asked
            and not self._operator_refusal(host.health)
            and not self._operator_refusal(candidate.health)
            and self.constraints.are_met_by(host)
        )

    def allows_bound(self, host: Host) -> bool:
        """Return whether a request that can go to this host alone, if it is its place, may go there.

        That the host asked for a moment's rest, recovers, or seems too slow is no reason to look for another.
        """
        now_s = self.now_s
        return not self.obstacle(host) and all(
            health.may_send(now_s) or health.is_resting(now_s)
            for health in (host.health, host.candidate.health)
        )

    def refusal(self, host: Host) -> str:
        """Return why the host may not get the request, for people; empty when it may."""
        return (
            self.obstacle(host)
            or self._health_refusal(host.health)
            or self._health_refusal(host.candidate.health)
            or ("suspected: not heard of lately" if host.candidate.is_suspected else "")
            or self._deadline_refusal(host)
        )

    def obstacle(self, host: Host) -> str:
        """Return which rule keeps the host out that nothing overrides; empty when none does."""
        if host.is_gone:
            return "it hosts the model no more"
        if host.is_away:
            return "it loads the model again"
        if host in self.asked:
            return "it was asked already"
        return (
            _link_refusal(host.candidate)
            or self._operator_refusal(host.health)
            or self._operator_refusal(host.candidate.health)
            or self.constraints.refusal(host)
        )

    def last_resort(self, hosts: Iterable[Host], *, is_extra: bool) -> Host | None:
        """Return the host that breaks the fewest preferences, None when a rule keeps each of them out.

        Of those that are merely unlucky or too slow for the deadline the soonest; else of the suspected the
        soonest; else who has been inhibited for longest and is therefore due first; else likewise of the
        ejected. An `is_extra` request (a hedge) is not worth a try of the last two.
        """
        best: Host | None = None
        least = (math.inf, 0.0, 0)
        for host in hosts:
            if self.obstacle(host):
                continue
            rank = self._rank(host)
            if rank < least and not (is_extra and rank[0] >= 2):
                best, least = host, rank
        return best

    def _rank(self, host: Host) -> tuple[float, float, int]:
        now_s, candidate = self.now_s, host.candidate
        poor = [health for health in (host.health, candidate.health) if not self._may(health)]
        if poor:
            is_ejected = any(health.state(now_s) is CircuitState.EJECTED for health in poor)
            since_s = max(health.since_s for health in poor)
            return (3 if is_ejected else 2), since_s, host.rif
        soon_s = (host.service_s() + candidate.network.rtt_s) * (host.rif + 1)
        return (1 if candidate.is_suspected else 0), soon_s, host.rif

    def _may(self, health: Health) -> bool:
        return health.may_send(self.now_s) or (
            self.is_panicking and health.state(self.now_s) is CircuitState.EJECTED
        )

    def _is_lucky(self, health: Health) -> bool:
        now_s = self.now_s
        if health.may_send(now_s):
            return (
                health.is_full  # `may_send` may have set it
                or self.luck < health.share(now_s)
                or (self.is_panicking and health.state(now_s) is CircuitState.EJECTED)
            )
        return self.is_panicking and health.state(now_s) is CircuitState.EJECTED

    def _is_well(self, health: Health) -> bool:
        now_s = self.now_s
        if not health.may_send(now_s):
            return health.is_resting(now_s)
        state = health.state(now_s)
        if state is CircuitState.RAMPING:
            return self.luck < health.share(now_s)
        return state is not CircuitState.EJECTED

    def _operator_refusal(self, health: Health) -> str:
        is_held = not health.is_full and health.state(self.now_s) is CircuitState.HELD_OPEN
        return "operator holds it open" if is_held else ""

    def _health_refusal(self, health: Health) -> str:
        now_s = self.now_s
        if health.is_full or self._is_lucky(health):
            return ""
        state = health.state(now_s)
        if not health.may_send(now_s):
            ago_s = max(0.0, now_s - health.since_s)
            return f"{state}: {health.reason}, {ago_s:.1f} s ago"
        return f"{state}: {health.share(now_s):.0%} of its requests for now"

    def _deadline_refusal(self, host: Host) -> str:
        left_s = self.deadline_s - self.now_s
        expected_s = host.service_s() + host.candidate.network.rtt_s
        if expected_s <= left_s or self.luck < DEADLINE_DOUBT:
            return ""
        return f"deadline: {left_s * 1e3:.0f} ms left, {expected_s * 1e3:.0f} ms expected"


def refusal(
    host: Host,
    constraints: Constraints,
    asked: Collection[Host],
    now_s: float,
    remaining_s: float,
) -> str:
    """Return why the host may not get a request that has `remaining_s` left; empty when it may."""
    return Eligibility(constraints, now_s + remaining_s, asked=asked, now_s=now_s).refusal(host)


def device_kinds(host: Host) -> frozenset[str]:
    """Return what the worker at the host's address may run on: one kind, or several when it cannot be known.

    Whoever dialled this router is some device of its node that cannot be dialled, or any if all can.
    """
    address, devices = host.candidate.address, host.advert.devices
    at = [device.kind for device in devices if address in device.data_addresses]
    at = at or [device.kind for device in devices if not device.data_addresses]
    return frozenset(at or [device.kind for device in devices])


def _link_refusal(candidate: Candidate) -> str:
    if candidate.is_retired:
        return "it left the fleet"
    if candidate.link is None:
        return "no link"
    if candidate.is_draining:
        return "draining"
    return "" if candidate.is_usable else "its link takes no new requests"


def _both(one: frozenset[T] | None, other: frozenset[T] | None) -> frozenset[T] | None:
    if one is None or other is None:
        return one if other is None else other
    return one & other


def _one_of(allowed: frozenset[str]) -> str:
    if len(allowed) <= 1:
        return next(iter(allowed), "any that is allowed")
    return f"one of {', '.join(sorted(allowed))}"
