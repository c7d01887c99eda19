"""One model version's traffic in one router: what outcomes say of its replicas, and to whom they say it. Pure.

What becomes of a request is told to the replica's and the endpoint's health, the policy, the averages and the
watch for outliers. A failure of the link is the endpoint's, one of a run the replica's, a refusal nobody's, and so is
the caller's own mistake, unless another replica answers what one took for a mistake.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    DeadlineExceeded,
    Draining,
    LinkLost,
    ModelUnavailable,
    NotMember,
    Overloaded,
    PeerError,
    ProtocolViolation,
    SizeRefused,
    is_refusal,
)
from capamesh.protocol.links.calls import load_with
from capamesh.router.admission.controller import AdmissionController
from capamesh.router.balancing.absence import awaited_until_s, no_endpoint
from capamesh.router.balancing.load_check import ReportedLoadCheck
from capamesh.router.balancing.opinions import GRAY_S, Opinions
from capamesh.router.balancing.panic import Panic
from capamesh.router.balancing.serving import FAILED, PROVEN_S, REFUSED, UNANSWERED_S
from capamesh.router.balancing.unhealthy import Slowed, UnhealthySet, Verdict
from capamesh.router.fleet import latency_ewma as peak_ewma
from capamesh.router.ownership.quorum import most_backed, votes
from capamesh.router.resilience.hedging import Hedging
from capamesh.router.resilience.latency_window import LatencyWindow
from capamesh.router.resilience.outliers import OutlierWatch
from capamesh.router.resilience.retry_budget import RetryBudget
from capamesh.router.resilience.verdicts import Outlier

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.deaths import Deaths
    from capamesh.router.balancing.eligibility import Eligibility
    from capamesh.router.balancing.witnesses import Witness
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.policies.policy import MakePolicy, Policy
    from capamesh.router.resilience.link_wait import LinkWait
    from capamesh.router.rules.model_rules import ModelRules

DRAINING_S = 1.0
"""An endpoint that says that it drains is avoided for this long: its advert or its link's end follow (guess)."""
UNAVAILABLE_S = 0.5
"""A replica that cannot run the model now is avoided for this long: it is loading, or its advert follows (guess)."""
REFUTED_S = 600.0
"""The word of an invite against another's counts for this long (guess: a liar that lies once a minute to each is found)."""
UNHEARD = 3
"""This many requests in a row that others answered for a replica, without a report of its load meanwhile, count as silence
(guess): hedges would else hide for long that it answers nothing. A replica that is merely slow answers the next probe."""


class ServedModel:
    """The traffic of one version of a model. Every `now_s` is the caller's monotonic clock in seconds."""

    __slots__ = (
        "_fleet",
        "_load_check",
        "_make_policy",
        "_opinions",
        "_others",
        "_outliers",
        "_refuters",
        "_rng",
        "_unhealthy",
        "admission",
        "budget",
        "deaths",
        "draw",
        "hedging",
        "hosted",
        "links",
        "lives",
        "model",
        "panic",
        "policy",
        "rules",
        "version",
        "window",
    )

    def __init__(
        self,
        fleet: FleetView,
        model: ModelName,
        version: ModelVersion,
        *,
        make_policy: MakePolicy,
        rules: ModelRules,
        rng: random.Random,
        unhealthy: UnhealthySet,
        links: LinkWait,
        lives: LinkWait,
        deaths: Deaths,
        is_limited: bool = True,
    ) -> None:
        self._fleet = fleet
        self.model = model
        self.version = version
        self.hosted = fleet.hosted(model, version)
        """The hosted version, with the nodes that host it now."""
        self.rules: ModelRules = rules
        """The operator's rules of the model."""
        self.links = links
        self.lives = lives
        self.deaths = deaths
        self._rng = rng
        self._make_policy = make_policy
        self._others: dict[str, Policy] = {}
        self.policy = self._new_policy(rules.policy, self._rng)
        """The policy of requests that ask for no other."""
        self.admission = AdmissionController(
            model, rng, weights=dict(rules.tenants), is_limited=is_limited
        )
        """Lets requests in."""
        self.draw: Callable[[], float] = rng.random
        """Gives a number from [0, 1)."""
        self.window = LatencyWindow()
        """The latencies of all its replicas, from sent to answered."""
        self.budget = RetryBudget()
        self._opinions = Opinions()
        self._refuters: dict[str, dict[str, float]] = {}
        """The times at which other invites last answered what an invite refused, by that invite and by them."""
        self.hedging = Hedging(self.window, is_enabled=rules.is_hedged)
        self._outliers: OutlierWatch[Replica] = OutlierWatch()
        self._load_check = ReportedLoadCheck()
        self._unhealthy = unhealthy
        self.panic = Panic(unhealthy, deaths.invite_of)

    @override
    def __repr__(self) -> str:
        return f"ServedModel({self.model!r} {self.version} by {self.policy.name}, {len(self.replicas)} hosts)"

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Return the replicas that host it now; the same tuple for as long as its members are the same."""
        return self.hosted.replicas

    def peers(self) -> Iterator[PeerId]:
        """Return the nodes that host it, each once for each of its addresses."""
        return (replica.endpoint.peer for replica in self.replicas)

    def may_repeat(self) -> bool:
        """Return whether more invites say that a request may run twice than say otherwise; so it may where there are none."""
        words = [
            (self.deaths.invite_of(replica.endpoint.peer), replica.offer.is_idempotent)
            for replica in self.replicas
        ]
        return not words or most_backed(votes(words)) is True

    def witnesses(self) -> Iterator[Witness]:
        """Return what these are as witnesses."""
        return map(self.deaths.witness, self.peers())

    def chooser(self, policy: str) -> Policy:
        """Return this model's policy of that name, "" for the model's own; raises what making it raises.

        One that is new is kept for the requests that follow.
        """
        if not policy or policy == self.rules.policy:
            return self.policy
        known = self._others.get(policy)
        if known is None:
            known = self._others[policy] = self._new_policy(policy, self._rng)
        return known

    def foreseen_chooser(self, policy: str, rng: random.Random) -> Policy:
        """Return what `chooser` would return; one that is new draws from `rng` and is not kept."""
        if not policy or policy == self.rules.policy:
            return self.policy
        return self._others.get(policy) or self._new_policy(policy, rng)

    def take_rules(self, rules: ModelRules) -> None:
        """Go by other rules from now on; a request under way ends by those that it began with."""
        if rules.policy != self.rules.policy:
            known = self._others.pop(rules.policy, None) or self._new_policy(
                rules.policy, self._rng
            )
            # requests may ask for the one of before, or be on their way by it
            self._others[self.rules.policy] = self.policy
            self.policy = known
        self.rules = rules
        self.hedging.is_enabled = rules.is_hedged
        self.admission.reweigh(dict(rules.tenants))

    def sent(self, replica: Replica, now_s: float) -> None:
        """A request is sent to `replica`: all policies hear of it, whichever chose."""
        self.policy.sent(replica, now_s)
        if self._others:
            for other in self._others.values():
                other.sent(replica, now_s)

    def reported(self, replica: Replica, load: LoadReport, now_s: float) -> None:
        """Take over what a node says of its load, as far as that is to be believed."""
        if not replica.is_gone:
            self._take_load(replica, self._load_check.believable(replica, load, now_s), now_s)

    def _take_load(self, replica: Replica, load: LoadReport, now_s: float) -> None:
        """Take over a load that is believed."""
        replica.reported(load, now_s)
        self.policy.reported(replica, now_s)
        if self._others:
            for other in self._others.values():
                other.reported(replica, now_s)

    # outcomes

    def answered(
        self,
        replica: Replica,
        load: LoadReport,
        elapsed_s: float,
        at_node_s: float,
        size_bytes: int,
        now_s: float,
    ) -> None:
        """A request was answered."""
        endpoint = replica.endpoint
        endpoint.answered += 1
        replica.answered_s = now_s
        sent_s = now_s - elapsed_s
        if sent_s > replica.proved_s:  # noqa: PLR1730 - without a call: this is done for every answer
            replica.proved_s = sent_s
        replica.missed = 0
        health = endpoint.health
        if health.consecutive or not health.is_full:
            health.answered(now_s)
        self.window.add(elapsed_s, now_s)
        way_s = endpoint.network.transferred(size_bytes, elapsed_s, at_node_s)
        if replica.is_gone:
            return
        health = replica.health
        if health.consecutive or not health.is_full:
            health.answered(now_s)
        peak_ewma.observe(replica, elapsed_s, now_s)
        self._outliers.record(replica, True, elapsed_s, now_s)
        believed = self._load_check.measured(replica, elapsed_s - way_s, now_s, load)
        self._take_load(replica, believed, now_s)

    def failed(
        self,
        replica: Replica,
        error: CapameshError,
        elapsed_s: float,
        now_s: float,
        *,
        is_urgent: bool = False,
    ) -> None:
        """A request was refused or failed."""
        endpoint = replica.endpoint
        if isinstance(error, LinkLost) and error.is_sudden and endpoint.link_lost(now_s):
            endpoint.count(error)  # put down to calls of jobs that were under way there
            return
        load = load_with(error)
        if load is not None:
            self.reported(replica, load, now_s)
        if isinstance(error, ClientError) or is_refusal(error):
            replica.missed += REFUSED
        elif isinstance(error, PeerError):
            replica.missed += FAILED
        match error:
            case SizeRefused():
                pass  # it takes others
            case Overloaded(retry_after_s=retry_after_s):
                replica.health.refused(now_s, retry_after_s)
                self.admission.refused(replica, retry_after_s, now_s, is_urgent=is_urgent)
            case Draining():
                endpoint.health.refused(now_s, DRAINING_S, cause="draining")
            case ModelUnavailable():
                replica.health.refused(now_s, UNAVAILABLE_S, cause="model unavailable")
            case DeadlineExceeded():
                self.unanswered(replica, elapsed_s, now_s)
            case ClientError():  # it is there and says so, which is easier than to run it
                endpoint.health.probed(now_s)
                replica.health.probed(now_s)
                if elapsed_s > peak_ewma.cost_s(replica, now_s):  # who says so late is not fast
                    peak_ewma.observe(replica, elapsed_s, now_s)
            case LinkLost() | ProtocolViolation() | NotMember():
                is_news = endpoint.health.may_send(now_s)
                endpoint.health.failed(now_s, is_hard=True, cause=_cause(error))
                self._fault(replica, elapsed_s, now_s, is_counted=is_news)
            case PeerError():
                endpoint.health.probed(now_s)
                replica.health.failed(now_s, is_hard=False, cause=_cause(error))
                self._fault(replica, elapsed_s, now_s, is_counted=True)
            case _:
                return  # this process's own fault
        endpoint.count(error)

    def refuted(
        self,
        replica: Replica,
        by: Replica,
        error: CapameshError,
        elapsed_s: float,
        now_s: float,
        *,
        is_paid: bool,
    ) -> None:
        """Take in that `replica` was wrong to blame the caller: the replica `by` has answered the request.

        `is_paid`: `try_cross_check` was asked for the other. Of two invites that contradict each other either may lie, so
        that neither loses its requests by the other's word alone.
        """
        if is_paid:
            self._opinions.give_back()
        replica.refuted_s = now_s
        if not self._is_outvoted(replica, by, now_s):
            return
        cause = f"refused what another answered: {_cause(error)}"
        replica.health.failed(now_s, is_hard=False, cause=cause)
        self._fault(replica, elapsed_s, now_s, is_counted=True)
        replica.endpoint.failed += 1

    def _is_outvoted(self, replica: Replica, by: Replica, now_s: float) -> bool:
        """Return whether the word of `by` holds against `replica`: it is of its own invite, or another's contradicts it, too.

        So it is where `replica` answers nobody, so that it has no requests to lose.
        """
        mine, other = (self.deaths.invite_of(each.endpoint.peer) for each in (replica, by))
        if mine in {"", other} or not other or replica.offer.version != by.offer.version:
            return True
        if now_s - replica.answered_s >= PROVEN_S:
            return True
        refuters = self._refuters.setdefault(mine, {})
        refuters[other] = now_s
        return sum(0 <= now_s - refuted_s < REFUTED_S for refuted_s in refuters.values()) > 1

    def is_doubted(self, replica: Replica, now_s: float) -> bool:
        """Return whether `replica` was proved wrong of late: it costs nothing to ask another about what it says."""
        return now_s - replica.refuted_s < GRAY_S

    def try_cross_check(self, now_s: float) -> bool:
        """Return whether another replica may be asked on what one calls the caller's fault, which costs an opinion."""
        return self._opinions.try_take(now_s)

    def awaits_until_s(self, rules: Eligibility) -> float:
        """Return until when a request that nobody may have by `rules` is likely to be answered by who gets a link.

        It is the choice's own time where there is no telling when, and minus infinity where a link helps nobody.
        """
        return awaited_until_s(self._fleet, self.model, self.version, self.replicas, rules)

    def silent(self, replica: Replica, elapsed_s: float, now_s: float) -> None:
        """A request has had no answer for longer than it should take.

        If the node has spoken of this model since the request was sent, it is there, and it is the model that
        hangs.
        """
        is_there = replica.load_s > now_s - elapsed_s
        health = replica.health if is_there else replica.endpoint.health
        health.failed(now_s, is_hard=True, cause=f"silent for {elapsed_s * 1e3:.0f} ms")
        replica.missed += FAILED
        replica.failed_s = now_s
        self._unhealthy.note(replica, now_s)

    def unanswered(
        self, replica: Replica, elapsed_s: float, now_s: float, *, is_silent: bool = False
    ) -> None:
        """A request ended without an answer: it would have taken at least `elapsed_s`.

        That says something only where it is more than what was expected. `is_silent`: it was taken for a fault, which is not
        a latency: else who never answers would have others wait three times as long for the next one.
        """
        if elapsed_s >= UNANSWERED_S:
            replica.missed += REFUSED
        if elapsed_s > peak_ewma.cost_s(replica, now_s):
            peak_ewma.observe(replica, elapsed_s, now_s)
        usual_s = self.window.quantile(0.5, now_s)
        if elapsed_s <= usual_s:
            return
        if not is_silent:
            self.window.add(elapsed_s, now_s)
        if replica.load_s < now_s - elapsed_s:
            replica.unheard += 1
            if replica.unheard >= UNHEARD:
                replica.unheard = 0
                self.silent(replica, elapsed_s, now_s)

    def _fault(self, replica: Replica, elapsed_s: float, now_s: float, *, is_counted: bool) -> None:
        replica.failed_s = now_s
        if is_counted and not replica.is_gone:
            self._outliers.record(replica, False, elapsed_s, now_s)
        self._unhealthy.note(replica, now_s)

    def _new_policy(self, name: str, rng: random.Random) -> Policy:
        """Return a policy that knows what the replicas have told already."""
        policy = self._make_policy(name, rng)
        for replica in self.replicas:
            if replica.load_s > -math.inf:
                policy.reported(replica, replica.load_s)
        return policy

    # the whole

    def tick(self, now_s: float) -> list[Verdict]:
        """Eject who stands out; to be called about every second. Return what is not told by `UnhealthySet`."""
        verdicts: list[Verdict] = []
        for found in self._outliers.tick(now_s):
            replica = found.replica
            if isinstance(found, Outlier):
                replica.health.eject(now_s, found.reason)
                self._unhealthy.note(replica, now_s)
            else:
                peer, address = replica.endpoint.peer, replica.endpoint.address
                verdicts.append(Slowed(peer, address, self.model, self.version, found.reason))
        self._load_check.forget_gone()
        return verdicts

    def nobody(self, rules: Eligibility) -> CapameshError:
        """Return the error for a request that nobody can be asked to run, and why."""
        return no_endpoint(self._fleet, self.model, self.version, self.replicas, rules)


def _cause(error: CapameshError) -> str:
    return f"{error.code}: {error.message[:120]}"
