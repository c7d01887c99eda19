"""One request's side of the balancer: what its `Flight` asks and tells (`flight.Desk`). Pure.

It holds the rules of this one request and keeps the counts of what is in flight; what an outcome means for the
model's traffic as a whole is that traffic's matter.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from capamesh.router.balancing.eligibility import ANYWHERE, Constraints, Eligibility
from capamesh.router.balancing.explanation import Explanation, explained

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.hosts import Host
    from capamesh.router.balancing.model_traffic import ModelTraffic
    from capamesh.router.policies.seam import Policy, RequestShape


class TrafficDesk:
    """One request's side of the balancer, as its `Flight` sees it (`flight.Desk`)."""

    __slots__ = ("_is_extra", "_policy", "_rules", "_shape", "_traffic", "chosen")

    def __init__(
        self,
        traffic: ModelTraffic,
        policy: Policy,
        constraints: Constraints,
        shape: RequestShape,
        deadline_s: float,
    ) -> None:
        self._traffic = traffic
        self._policy = policy
        terms = traffic.terms.constraints
        self._rules = Eligibility(
            constraints if terms is ANYWHERE else terms.both(constraints), deadline_s
        )
        self._shape = shape
        self.chosen: tuple[Host, ...] = ()
        """Who was asked, in that order."""
        self._is_extra = False

    @property
    def size_bytes(self) -> int:
        """The request's size."""
        return self._shape.size_bytes

    def choose(self, asked: Collection[Host], now_s: float) -> Host:
        """Return whom to ask. Raises `ModelNotFound` or `NoCandidate` when nobody is left."""
        traffic, rules = self._traffic, self._rules
        hosts = traffic.hosts
        rules.asked = asked
        rules.now_s = now_s
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
        """Part of `flight.Desk`."""
        traffic = self._traffic
        if host.rif == 0:
            host.busy_s = now_s
        host.rif += 1
        host.candidate.began()
        if not self.chosen:  # later attempts earn nothing: they are what is paid for
            traffic.budget.deposit(now_s)
            traffic.hedging.sent(now_s)
        self.chosen = (*self.chosen, host)
        traffic.sent(host, self._policy, now_s)

    def answered(
        self,
        host: Host,
        load: LoadReport,
        elapsed_s: float,
        at_node_s: float,
        size_bytes: int,
        now_s: float,
    ) -> None:
        """Part of `flight.Desk`."""
        host.rif -= 1
        self._traffic.answered(host, load, elapsed_s, at_node_s, size_bytes, now_s)
        host.candidate.ended()

    def failed(self, host: Host, error: CapameshError, elapsed_s: float, now_s: float) -> None:
        """Part of `flight.Desk`."""
        host.rif -= 1
        self._traffic.failed(host, error, elapsed_s, now_s)
        host.candidate.ended()

    def silent(self, host: Host, elapsed_s: float, now_s: float) -> None:
        """Part of `flight.Desk`."""
        self._traffic.silent(host, elapsed_s, now_s)

    def withdrawn(self, host: Host, elapsed_s: float, now_s: float) -> None:
        """Part of `flight.Desk`."""
        host.rif -= 1
        self._traffic.unanswered(host, elapsed_s, now_s)
        host.candidate.ended()

    def try_retry(self, now_s: float) -> bool:
        """Part of `flight.Desk`."""
        traffic = self._traffic
        return traffic.terms.is_retried and traffic.budget.try_withdraw(now_s)

    def try_pass_on(self, now_s: float) -> bool:
        """Part of `flight.Desk`. Free while the fleet has room; when it is full, one refusal brings on others."""
        traffic = self._traffic
        return not traffic.is_full() or traffic.budget.try_withdraw(now_s)

    def try_hedge(self, now_s: float) -> bool:
        """Part of `flight.Desk`. The choice that follows is for a hedge: it tries nobody who is not well."""
        self._is_extra = self._traffic.hedging.try_hedge(now_s)
        return self._is_extra

    def hedge_delay_s(self, now_s: float) -> float | None:
        """Part of `flight.Desk`."""
        return self._traffic.hedging.delay_s(now_s)

    def first_byte_limit_s(self, host: Host, remaining_s: float, now_s: float) -> float:
        """Part of `flight.Desk`."""
        expected_s = host.latency_s(self._shape.size_bytes)
        return self._traffic.hedging.first_byte_limit_s(now_s, expected_s, remaining_s)

    def has_answered(self, host: Host, since_s: float) -> bool:
        """Part of `flight.Desk`."""
        return host.answered_s > since_s

    def explain(self, now_s: float) -> Explanation:
        """Return why it went where it went, by the rules of the last choice and what is known now."""
        traffic, rules = self._traffic, self._rules
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
