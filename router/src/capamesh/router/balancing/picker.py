"""One request's side of the balancer: what its `Flight` asks and tells (`attempts.Desk`). Pure.

It holds the rules of this one request and keeps the counts of what is in flight; what an outcome means for the
model's traffic as a whole is that traffic's matter. A request that names no version may change to another version's
traffic between two attempts; what is told of a host is told to the traffic that it belongs to.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from capamesh.protocol.errors import CapameshError, Overloaded
from capamesh.router.balancing.deaths import Stand, Suspicion
from capamesh.router.balancing.eligibility import Constraints, Eligibility
from capamesh.router.balancing.explanation import Explanation, explained
from capamesh.router.balancing.fitting import usual_size_bytes

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelVersion
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.served_model import ModelTraffic
    from capamesh.router.balancing.witnesses import Witness
    from capamesh.router.fleet.replica import Host
    from capamesh.router.policies.policy import Policy, RequestShape
    from capamesh.router.requests.versions import Versions


FAR_ABOVE = 64
"""A request of so many times the bytes of the model's best batch is not asked again after its worker ended (guess: no
batch grows so large by growing usual)."""


class TrafficDesk:
    """One request's side of the balancer, as its `Flight` sees it (`attempts.Desk`)."""

    __slots__ = (
        "_is_extra",
        "_is_settled",
        "_left",
        "_paid_for",
        "_policy",
        "_rules",
        "_shape",
        "_suspicion",
        "_trial",
        "_versions",
        "chosen",
        "traffic",
        "tried",
        "witnesses",
    )

    def __init__(
        self,
        traffic: ModelTraffic,
        policy: Policy,
        constraints: Constraints,
        shape: RequestShape,
        deadline_s: float,
        versions: Versions | None = None,
        trial: ModelTraffic | None = None,
    ) -> None:
        """The first attempt goes to a host of `trial`, if one is fit; those after it to `traffic`."""
        self.traffic = traffic
        """Of the version that was chosen last."""
        self._versions = versions
        self._left: dict[ModelVersion, ModelTraffic] | None = None
        """By version: what it was chosen from as well. None: nothing else."""
        self._policy = policy
        self._rules = Eligibility(traffic.terms.with_wishes(constraints), deadline_s)
        self._shape = shape
        self.chosen: tuple[Host, ...] = ()
        """Who was asked, in that order."""
        self._suspicion: Suspicion | None = None
        """None: no process has ended while it ran this request."""
        self.witnesses: frozenset[Witness] = frozenset()
        """Where processes have ended of it, once it is over."""
        self._is_extra = False
        self._is_settled = False
        """Whether the version was chosen some time ago: whoever made this desk has just done so."""
        self._trial = trial
        self._paid_for: Host | None = None
        """Whose word was doubted at the cost of an opinion."""
        self.tried: Host | None = None
        """The host of a version on trial that was asked first; None: none was."""

    @property
    def key(self) -> str:
        """The key of the requests that should meet at one node; empty: it has none."""
        return self._shape.affinity

    @property
    def size_bytes(self) -> int:
        """The request's size."""
        return self._shape.size_bytes

    @property
    def is_urgent(self) -> bool:
        """Whether nodes give it the places of others that wait."""
        return self._shape.is_urgent

    def choose(self, asked: Collection[Host], now_s: float) -> Host:
        """Return whom to ask. Raises `ModelNotFound` or `NoCandidate` when nobody is left."""
        if self._suspicion is None:
            return self._choose(asked, now_s)
        is_extra, *shunned = self._is_extra, *self._shunned(self._suspicion)
        for each in shunned[:-1]:
            with contextlib.suppress(CapameshError):
                return self._choose({*asked, *each}, now_s)
            self._is_extra = is_extra
        return self._choose({*asked, *shunned[-1]}, now_s)

    def _shunned(self, suspicion: Suspicion) -> list[list[Host]]:
        """Return whom not to ask after deaths: a list that is tried first, and those to fall back on.

        Another invite's word tells the most, then another node's. Where two deaths do not suffice, only a word that
        would is worth a third.
        """
        deaths, heard = self.traffic.deaths, suspicion.witnesses
        peers, invites = {each.peer for each in heard}, {each.invite for each in heard} - {""}
        of_peers: list[Host] = []
        of_invites: list[Host] = []
        is_other = False
        for traffic in self._traffics():
            for host in traffic.hosts:
                witness = deaths.witness(host.candidate.peer)
                if witness.peer in peers:
                    of_peers.append(host)
                if witness.peer in peers or witness.invite in invites:
                    of_invites.append(host)
                is_other |= bool(witness.invite) and witness.invite not in invites
        if len(suspicion.deaths) > 1 and not deaths.suffice(suspicion, self.traffic.peers()):
            return [of_invites if is_other and len(invites) < 2 else of_peers]
        return [of_invites, of_peers, []]

    def _traffics(self) -> list[ModelTraffic]:
        """Return all traffic that an attempt may go to."""
        return [self.traffic] if self._versions is None else self._versions.traffics()

    def _choose(self, asked: Collection[Host], now_s: float) -> Host:
        rules = self._rules
        rules.asked = asked
        rules.now_s = now_s
        if self._trial is not None:
            tried = self._try(self._trial, now_s)
            self._trial = None
            if tried is not None:
                return tried
        if self._is_settled and self._versions is not None and not self._is_extra:
            key = self._shape.affinity
            self._change(self._versions.open_from(self.traffic, rules, key, is_second=True))
        self._is_settled = True
        traffic = self.traffic
        hosts = traffic.hosts
        rules.luck = traffic.draw()
        rules.is_panicking = traffic.is_panicking(hosts, now_s)
        is_eligible = rules.allows_bound if self._shape.is_bound else rules.allows
        host = self._policy.pick(hosts, is_eligible, self._shape, now_s)
        if host is None:
            host = rules.last_resort(hosts, is_extra=self._is_extra)
        self._is_extra = False
        if host is None:
            raise traffic.nobody(rules)
        return host

    def sent(self, host: Host, now_s: float) -> None:
        """Part of `attempts.Desk`."""
        traffic = self.traffic
        if host.rif == 0:
            host.busy_s = now_s
        host.rif += 1
        host.candidate.began()
        if not self.chosen:  # later attempts earn nothing: they are what is paid for
            traffic.budget.deposit(now_s)
            traffic.hedging.sent(now_s)
        self.chosen = (*self.chosen, host)
        of = self._of(host)
        policy = self._policy if of is traffic else of.chooser(self._policy.name)
        of.sent(host, policy, now_s)

    def answered(
        self,
        host: Host,
        load: LoadReport,
        elapsed_s: float,
        at_node_s: float,
        size_bytes: int,
        now_s: float,
    ) -> None:
        """Part of `attempts.Desk`."""
        host.rif -= 1
        self._of(host).answered(host, load, elapsed_s, at_node_s, size_bytes, now_s)
        host.candidate.ended()
        if self._suspicion is not None:
            self.traffic.deaths.answered(self._suspicion)

    def failed(self, host: Host, error: CapameshError, elapsed_s: float, now_s: float) -> None:
        """Part of `attempts.Desk`."""
        host.rif -= 1
        of = self._of(host)
        of.failed(host, error, elapsed_s, now_s, is_urgent=self._shape.is_urgent)
        if isinstance(error, Overloaded) and of is self.traffic:
            self._versions = None  # a version that is full is not relieved by another
        host.candidate.ended()

    def silent(self, host: Host, elapsed_s: float, now_s: float) -> None:
        """Part of `attempts.Desk`."""
        self._of(host).silent(host, elapsed_s, now_s)

    def withdrawn(self, host: Host, elapsed_s: float, now_s: float) -> None:
        """Part of `attempts.Desk`."""
        host.rif -= 1
        self._of(host).unanswered(host, elapsed_s, now_s)
        host.candidate.ended()

    def refuted(
        self, host: Host, by: Host, error: CapameshError, elapsed_s: float, now_s: float
    ) -> None:
        """Part of `attempts.Desk`. What is wrong for one version may be right for another, unless that is what is tried."""
        if host.offer.version == by.offer.version or self._is_on_trial(host):
            is_paid = host is self._paid_for
            self._of(host).refuted(host, error, elapsed_s, now_s, is_paid=is_paid)

    def is_ample(self, host: Host, remaining_s: float) -> bool:
        """Part of `attempts.Desk`."""
        return self._of(host).is_ample(host, remaining_s)

    def died(self, host: Host, now_s: float) -> None:
        """Part of `attempts.Desk`."""
        if self._suspicion is None:
            self._suspicion = Suspicion()
        self.traffic.deaths.died(host.candidate, self._suspicion, now_s)

    def stand(self, *, is_final: bool = False) -> Stand:
        """Part of `attempts.Desk`."""
        suspicion = self._suspicion
        if suspicion is None:
            return Stand.FREE
        return self.traffic.deaths.stand(suspicion, self.traffic.peers(), is_final=is_final)

    def is_far_above_usual(self, host: Host) -> bool:
        """Part of `attempts.Desk`."""
        hosts = (host, *self.traffic.hosts)  # what one of them says is usual is only its word
        return all(self._is_far_above(each) for each in hosts)

    def _is_far_above(self, host: Host) -> bool:
        return 0 < usual_size_bytes(host.offer) * FAR_ABOVE < self._shape.size_bytes

    def ended(self, *, is_guilty: bool) -> None:
        """Part of `attempts.Desk`."""
        suspicion = self._suspicion
        if suspicion is not None:
            deaths = self.traffic.deaths
            self.witnesses = suspicion.witnesses
            (deaths.convicted if is_guilty else deaths.gave_up)(suspicion)

    def left(self, host: Host, now_s: float) -> None:
        """Part of `attempts.Desk`."""
        host.candidate.left_s = now_s

    def is_alive(self, host: Host, since_s: float) -> bool:
        """Part of `attempts.Desk`."""
        candidate = host.candidate
        return candidate.alive_s >= since_s or candidate.linked_s > since_s

    def is_back(self, host: Host, since_s: float) -> bool:
        """Part of `attempts.Desk`."""
        return host.candidate.linked_s > since_s

    def wait_until_s(self, asked: Collection[Host], now_s: float) -> float:
        """Part of `attempts.Desk`."""
        if not self.traffic.links.has_room(self._shape.size_bytes):
            return -math.inf
        rules = self._rules
        rules.asked = asked
        if self._suspicion is not None:
            rules.asked = {*asked, *self._shunned(self._suspicion)[-1]}
        rules.now_s = now_s
        until_s = (traffic.awaits_until_s(rules) for traffic in self._traffics())
        return max(until_s, default=-math.inf)

    def try_retry(self, now_s: float) -> bool:
        """Part of `attempts.Desk`."""
        traffic = self.traffic
        return traffic.terms.is_retried and traffic.budget.try_withdraw(now_s)

    def try_pass_on(self, now_s: float) -> bool:
        """Part of `attempts.Desk`. Free while the fleet has room; when it is full, one refusal brings on others."""
        traffic = self.traffic
        return not traffic.is_full() or traffic.budget.try_withdraw(now_s)

    def second(self, of: Host, asked: Collection[Host], now_s: float) -> Host | None:
        """Part of `attempts.Desk`. It is of the same version, and well."""
        traffic = self.traffic
        if not traffic.terms.is_retried:
            return None
        self._is_extra = True
        try:
            host = self.choose(asked, now_s)
        except CapameshError:
            return None
        if self._is_on_trial(of):
            return host  # nothing is lost on a trial
        traffic = self._of(of)
        if traffic.is_doubted(of, now_s):
            return host
        if not traffic.try_second(now_s):
            return None
        self._paid_for = of
        return host

    def try_hedge(self, now_s: float) -> bool:
        """Part of `attempts.Desk`. The choice that follows is for a hedge: it tries nobody who is not well."""
        self._is_extra = self.traffic.hedging.try_hedge(now_s)
        return self._is_extra

    def hedge_delay_s(self, now_s: float) -> float | None:
        """Part of `attempts.Desk`."""
        return self.traffic.hedging.delay_s(now_s)

    def first_byte_limit_s(self, host: Host, remaining_s: float, now_s: float) -> float:
        """Part of `attempts.Desk`."""
        of = self._of(host)
        if self._is_on_trial(host):  # what it says of its own pace is not waited for
            of = self.traffic
            host = of.hosts[0] if of.hosts else host
        expected_s = host.latency_s(self._shape.size_bytes)
        return of.hedging.first_byte_limit_s(now_s, expected_s, remaining_s)

    def has_answered(self, host: Host, since_s: float) -> bool:
        """Part of `attempts.Desk`."""
        return host.answered_s > since_s

    def explain(self, now_s: float) -> Explanation:
        """Return why it went where it went, by the rules of the last choice and what is known now."""
        traffic, rules = self.traffic, self._rules
        rules.now_s = now_s
        rules.asked = ()
        return explained(
            traffic.model,
            traffic.version,
            self._policy.name,
            hosts=traffic.hosts,
            rules=rules,
            chosen=self.chosen,
        )

    # versions

    def _try(self, trial: ModelTraffic, now_s: float) -> Host | None:
        """Return a host of the version on trial; None: the request is not for it."""
        rules = self._rules
        rules.luck = trial.draw()
        rules.is_panicking = False
        policy = trial.chooser(self._policy.name)
        shape = replace(self._shape, version=trial.version)
        host = policy.pick(trial.hosts, rules.allows, shape, now_s)
        if host is not None:
            self._left = {trial.version: trial}
            self.tried = host
        return host

    def _is_on_trial(self, host: Host) -> bool:
        return host is self.tried

    def _change(self, traffic: ModelTraffic) -> None:
        if traffic is self.traffic:
            return
        if self._left is None:
            self._left = {}
        self._left[self.traffic.version] = self.traffic
        self.traffic = traffic
        self._policy = traffic.chooser(self._policy.name)
        self._shape = replace(self._shape, version=traffic.version)

    def _of(self, host: Host) -> ModelTraffic:
        if self._left is None:
            return self.traffic
        return self._left.get(host.offer.version, self.traffic)
