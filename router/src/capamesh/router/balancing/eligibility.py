"""The rules of who may get a request, as a fast yes or no and as the reason for people. Pure.

Filtering comes before choosing (as in llm-d's scheduler): a policy ranks those that are eligible. Some rules
nothing overrides: what the caller asked for, the operator's word, a missing link. The others are preferences,
and when they leave nobody, `last_resort` names the one that breaks them least: a request is not failed by its
router while there is a node that might answer it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Iterable
from typing import TYPE_CHECKING, Final

from capamesh.router.fleet.replica import Replica
from capamesh.router.resilience.health import CircuitState, Health
from capamesh.router.rules.constraints import ANYWHERE, Constraints

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.endpoint import Endpoint

DEADLINE_DOUBT = 0.02
"""This share of all requests goes to a replica although it seems too slow for them (guess): its report is of its last
answers, and a replica that is never asked again could never report that it is faster now."""


class Barred:
    """The replicas that a choice must leave out: some, and all of some invites."""

    __slots__ = ("_invite_of", "_invites", "_replicas")

    def __init__(
        self,
        replicas: Collection[Replica],
        invites: Collection[str],
        invite_of: Callable[[PeerId], str],
    ) -> None:
        self._replicas = replicas
        self._invites = invites
        self._invite_of = invite_of

    def __contains__(self, replica: object) -> bool:
        if replica in self._replicas:
            return True
        return (
            isinstance(replica, Replica) and self._invite_of(replica.endpoint.peer) in self._invites
        )


class Eligibility:
    """The rules for one choice: a value that is made for the choice and does not change.

    `asked` are the replicas that the choice must leave out, and `deadline_s` is on the clock of `now_s`. `draw` is a number
    from [0, 1): a replica whose share of requests is reduced takes part in the choices whose number is below its share.
    All replicas share the number, so that asking twice is answered the same. `is_panicking` says that so many replicas
    are ejected that an ejection says more of the fleet than of a replica (Envoy's panic threshold).
    """

    __slots__ = ("asked", "constraints", "deadline_s", "draw", "is_panicking", "now_s")

    def __init__(
        self,
        constraints: Constraints = ANYWHERE,
        deadline_s: float = math.inf,
        asked: Container[Replica] = (),
        now_s: float = 0.0,
        draw: float = 0.5,
        is_panicking: bool = False,
    ) -> None:
        self.constraints: Final = constraints
        self.deadline_s: Final = deadline_s
        self.asked: Final = asked
        self.now_s: Final = now_s
        self.draw: Final = draw
        self.is_panicking: Final = is_panicking

    def allows(self, replica: Replica) -> bool:
        """Return whether `refusal` is empty. Costs about 0.5 us for a healthy replica."""
        endpoint = replica.endpoint
        link = endpoint.link
        if (
            link is None
            or not link.is_usable
            or endpoint.is_draining
            or endpoint.is_retired
            or endpoint.is_suspected
            or replica.is_out
            or replica in self.asked
        ):
            return False
        if not replica.health.is_full and not self._is_drawn(replica.health):
            return False
        if not endpoint.health.is_full and not self._is_drawn(endpoint.health):
            return False
        if self.constraints is not ANYWHERE and not self.constraints.are_met_by(
            replica.advert, endpoint.address
        ):
            return False
        return (
            replica.service_s + endpoint.network.rtt_s <= self.deadline_s - self.now_s
            or self.draw < DEADLINE_DOUBT
        )

    def is_open(self, replica: Replica) -> bool:
        """Return whether the replica may be asked and nothing is wrong with it that is known.

        That it asked for a moment's rest or seems too slow is nothing wrong. One that recovers is open to its share
        of requests, one that is ejected to none, not even in a trial. Costs about 0.3 us for a healthy replica.
        """
        endpoint = replica.endpoint
        if not endpoint.is_usable or replica.is_out or replica in self.asked:
            return False
        for health in (replica.health, endpoint.health):
            if not health.is_full and not self._is_well(health):
                return False
        return self.constraints is ANYWHERE or self.constraints.are_met_by(
            replica.advert, endpoint.address
        )

    def is_there(self, replica: Replica) -> bool:
        """Return whether `obstacle` has nothing to say: the replica may be asked, be it well or not."""
        return not self.obstacle(replica)

    def lacks_link(self, replica: Replica) -> bool:
        """Return whether a link, or a model that is loaded again, is all that the replica lacks to be asked."""
        endpoint, link = replica.endpoint, replica.endpoint.link
        return (
            (link is None or not link.is_usable or replica.is_away)
            and not (endpoint.is_draining or endpoint.is_retired or replica.is_gone)
            and replica not in self.asked
            and not self._operator_refusal(replica.health)
            and not self._operator_refusal(endpoint.health)
            and self.constraints.are_met_by(replica.advert, endpoint.address)
        )

    def allows_bound(self, replica: Replica) -> bool:
        """Return whether a request that can go to this replica alone, if it is its place, may go there.

        That the replica asked for a moment's rest, recovers, or seems too slow is no reason to look for another.
        """
        now_s = self.now_s
        return not self.obstacle(replica) and all(
            health.may_send(now_s) or health.is_resting(now_s)
            for health in (replica.health, replica.endpoint.health)
        )

    def refusal(self, replica: Replica) -> str:
        """Return why the replica may not get the request, for people; empty when it may."""
        return (
            self.obstacle(replica)
            or self._health_refusal(replica.health)
            or self._health_refusal(replica.endpoint.health)
            or ("suspected: not heard of lately" if replica.endpoint.is_suspected else "")
            or self._deadline_refusal(replica)
        )

    def obstacle(self, replica: Replica) -> str:
        """Return which rule keeps the replica out that nothing overrides; empty when none does."""
        if replica.is_gone:
            return "it hosts the model no more"
        if replica.is_away:
            return "it loads the model again"
        if replica in self.asked:
            return "it was asked already"
        return (
            _link_refusal(replica.endpoint)
            or self._operator_refusal(replica.health)
            or self._operator_refusal(replica.endpoint.health)
            or self.constraints.refusal(replica.advert, replica.endpoint.address)
        )

    def last_resort(self, replicas: Iterable[Replica], *, is_extra: bool) -> Replica | None:
        """Return the replica that breaks the fewest preferences, None when a rule keeps each of them out.

        Of those that are merely unlucky or too slow for the deadline the soonest; else of the suspected the
        soonest; else who has been inhibited for longest and is therefore due first; else likewise of the
        ejected. An `is_extra` request (a hedge) is not worth a try of the last two.
        """
        best: Replica | None = None
        least = (math.inf, math.inf, math.inf)
        for replica in replicas:
            if self.obstacle(replica):
                continue
            rank = self._rank(replica)
            if rank < least and not (is_extra and rank[0] >= 2):
                best, least = replica, rank
        return best

    def _rank(self, replica: Replica) -> tuple[float, float, int]:
        now_s, endpoint = self.now_s, replica.endpoint
        poor = [health for health in (replica.health, endpoint.health) if not self._may(health)]
        if poor:
            is_ejected = any(health.state(now_s) is CircuitState.EJECTED for health in poor)
            since_s = max(health.since_s for health in poor)
            return (3 if is_ejected else 2), since_s, replica.rif
        soon_s = (replica.service_s + endpoint.network.rtt_s) * (replica.rif + 1)
        return (1 if endpoint.is_suspected else 0), soon_s, replica.rif

    def _may(self, health: Health) -> bool:
        return health.may_send(self.now_s) or (
            self.is_panicking and health.state(self.now_s) is CircuitState.EJECTED
        )

    def _is_drawn(self, health: Health) -> bool:
        now_s = self.now_s
        if health.may_send(now_s):
            return (
                health.is_full  # `may_send` may have set it
                or self.draw < health.share(now_s)
                or (self.is_panicking and health.state(now_s) is CircuitState.EJECTED)
            )
        return self.is_panicking and health.state(now_s) is CircuitState.EJECTED

    def _is_well(self, health: Health) -> bool:
        now_s = self.now_s
        if not health.may_send(now_s):
            return health.is_resting(now_s)
        state = health.state(now_s)
        if state is CircuitState.RAMPING:
            return self.draw < health.share(now_s)
        return state is not CircuitState.EJECTED

    def _operator_refusal(self, health: Health) -> str:
        is_held = not health.is_full and health.state(self.now_s) is CircuitState.FORCED_OPEN
        return "operator holds it open" if is_held else ""

    def _health_refusal(self, health: Health) -> str:
        now_s = self.now_s
        if health.is_full or self._is_drawn(health):
            return ""
        state = health.state(now_s)
        if not health.may_send(now_s):
            ago_s = max(0.0, now_s - health.since_s)
            return f"{state}: {health.reason}, {ago_s:.1f} s ago"
        return f"{state}: {health.share(now_s):.0%} of its requests for now"

    def _deadline_refusal(self, replica: Replica) -> str:
        left_s = self.deadline_s - self.now_s
        expected_s = replica.service_s + replica.endpoint.network.rtt_s
        if expected_s <= left_s or self.draw < DEADLINE_DOUBT:
            return ""
        return f"deadline: {left_s * 1e3:.0f} ms left, {expected_s * 1e3:.0f} ms expected"


def may_be_probed(replica: Replica, now_s: float) -> bool:
    """Return whether the load of `replica` may be asked for: a request that asks for nothing in particular might go there."""
    endpoint = replica.endpoint
    if not endpoint.is_usable or endpoint.is_suspected or replica.is_out:
        return False
    return (replica.health.is_full or replica.health.may_send(now_s)) and (
        endpoint.health.is_full or endpoint.health.may_send(now_s)
    )


def refusal(
    replica: Replica,
    constraints: Constraints,
    asked: Collection[Replica],
    now_s: float,
    remaining_s: float,
) -> str:
    """Return why the replica may not get a request that has `remaining_s` left; empty when it may."""
    return Eligibility(constraints, now_s + remaining_s, asked=asked, now_s=now_s).refusal(replica)


def _link_refusal(endpoint: Endpoint) -> str:
    if endpoint.is_retired:
        return "it left the fleet"
    if endpoint.link is None:
        return "no link"
    if endpoint.is_draining:
        return "draining"
    return "" if endpoint.is_usable else "its link takes no new requests"
