"""Where requests go in one router: a `ModelTraffic` for each model version in use, and what they share. Pure.

The facade that the service and a simulator drive: they make a desk for each request, send the probes asked for,
call `tick` and `reprobes` now and then, and write down the verdicts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from capamesh.router.balancing.deaths import Deaths
from capamesh.router.balancing.served_model import ModelTraffic, Terms, not_hosted
from capamesh.router.balancing.unhealthy import Troubles, Verdict
from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.link_wait import LinkWait

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.fleet.endpoint import Candidate
    from capamesh.router.fleet.replica import Host
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.policies.policy import Policy

RulesOf = Callable[["ModelName"], Terms]
"""What the operator's rules say of a model."""


class Balancer:
    """All traffic of one router. Every `now_s` is the caller's monotonic clock in seconds."""

    def __init__(
        self,
        fleet: FleetView,
        *,
        make_policy: Callable[[str], Policy],
        chance: random.Random,
        rules: RulesOf,
        invite_of: Callable[[PeerId], str] = lambda _: "",
    ) -> None:
        """`invite_of` tells by which invite a node was let into the network, "" if that is not known."""
        self._fleet = fleet
        self._make_policy = make_policy
        self._chance = chance
        self._rules = rules
        self._traffic: dict[tuple[ModelName, ModelVersion], ModelTraffic] = {}
        self._troubles = Troubles()
        self.links = LinkWait()
        """Who waits for a link, or for news of what a process died of."""
        self.lives = LinkWait()
        """Who waits for a sign of life."""
        self.deaths = Deaths(self.links.linked, invite_of)

    def __repr__(self) -> str:
        return f"Balancer({len(self._traffic)} models in use, {self._troubles!r})"

    def traffic(self, model: ModelName, version: ModelVersion) -> ModelTraffic:
        """Return the traffic of the model at `version`, its newest when that is empty.

        Raises `ModelNotFound` when no node has it ready: what is kept is bounded by what the fleet hosts.
        """
        key = (model, version or self._fleet.newest(model))
        traffic = self._traffic.get(key)
        if traffic is None:
            if not self._fleet.has(*key):
                raise not_hosted(self._fleet, model, version)
            terms = self._rules(model)
            traffic = self._traffic[key] = ModelTraffic(
                self._fleet,
                *key,
                make_policy=self._make_policy,
                terms=terms,
                chance=self._chance,
                troubles=self._troubles,
                links=self.links,
                lives=self.lives,
                deaths=self.deaths,
            )
        return traffic

    def traffics(self) -> list[ModelTraffic]:
        """Return all that is in use."""
        return list(self._traffic.values())

    def take_rules(self) -> None:
        """The operator's rules have changed: what is in use goes by them from now on."""
        for traffic in self._traffic.values():
            traffic.take(self._rules(traffic.model))

    # probes

    def reprobes(self, now_s: float) -> list[Host]:
        """Return which of the inhibited to probe now; to be called every 50 ms or so."""
        return self._troubles.reprobes(now_s) if self._troubles else []

    def probe_answered(self, host: Host, load: LoadReport, rtt_s: float, now_s: float) -> None:
        """A probe of `host`, whoever wanted it, was answered after `rtt_s`: also a sign of life."""
        candidate = host.candidate
        candidate.alive_s = max(candidate.alive_s, now_s - rtt_s)
        candidate.network.round_trip(rtt_s)
        candidate.health.probed(now_s)
        host.health.probed(now_s)
        traffic = self._traffic.get((host.offer.name, host.offer.version))
        if traffic is not None:
            traffic.told(host, load, now_s)
        elif not host.is_gone:
            host.told(load, now_s)  # for the model's first request
        self.lives.linked()

    def probe_failed(self, host: Host, now_s: float) -> None:
        """A probe of `host` was not answered in time, or could not be sent.

        Of one that is well that says little, requests will tell; one that is on its way back is out again,
        before requests are lost on it.
        """
        for health in (host.health, host.candidate.health):
            if not health.is_full and health.state(now_s) is CircuitState.RAMPING:
                health.failed(now_s, is_hard=True, cause="no answer to a probe")
                self._troubles.note(host, now_s)

    # time

    def linked(self, candidate: Candidate, now_s: float) -> None:
        """A candidate's link is up: that it was lost is over, and who waits for a link may go on."""
        candidate.linked_s = now_s
        candidate.is_missed = False
        process = candidate.link.peer_process if candidate.link is not None else b""
        if not process or process != candidate.process:
            candidate.process, candidate.process_s = process, now_s
        self.deaths.linked(candidate)
        candidate.health.probed(now_s)
        self.links.linked()

    def missed(self, model: ModelName, version: ModelVersion) -> None:
        """A request for the model has failed for want of a link, "" being any version."""
        versions = (version,) if version else self._fleet.trusted(model)
        for each in versions:
            for host in self._fleet.hosts(model, each):
                host.candidate.is_missed |= not host.candidate.is_usable

    def unlinked(self, candidate: Candidate, now_s: float) -> None:
        """A candidate's link has ended."""
        candidate.unlinked_s = now_s

    def tick(self, now_s: float) -> list[Verdict]:
        """Judge the hosts, forget what is gone; to be called about every second. Return what to log."""
        verdicts: list[Verdict] = []
        for key, traffic in list(self._traffic.items()):
            if self._fleet.has(*key):
                verdicts += traffic.tick(now_s)
            else:
                del self._traffic[key]
        return [*self._troubles.settle(now_s), *verdicts]
