"""The balancer of one router: a `ServedModel` for each model version in use, and what they share. Pure.

It is the facade that a router process and a simulator drive: they make a picker for each request, send the probes asked
for, call `tick` and `reprobes` now and then, and log the verdicts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.links.calls import TELL_S
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.balancing.deaths import Deaths
from capamesh.router.balancing.served_model import ServedModel
from capamesh.router.balancing.unhealthy import UnhealthySet, Verdict
from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.link_wait import LinkWait

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.policies.policy import MakePolicy
    from capamesh.router.rules.model_rules import RoutingRules


class Balancer:
    """All traffic of one router. Every `now_s` is the caller's monotonic clock in seconds."""

    def __init__(
        self,
        fleet: FleetView,
        *,
        make_policy: MakePolicy,
        rng: random.Random,
        rules: RoutingRules,
        invite_of: Callable[[PeerId], str] = lambda _: "",
        is_limited: bool = True,
    ) -> None:
        """`invite_of` tells by which invite a node was let into the network, "" if that is not known.

        Not `is_limited`: requests are let in however full the nodes are.
        """
        self._fleet = fleet
        self._make_policy = make_policy
        self._rng = rng
        self._rules = rules
        self._is_limited = is_limited
        self._served: dict[tuple[ModelName, ModelVersion], ServedModel] = {}
        self._ending: dict[tuple[ModelName, ModelVersion], ServedModel] = {}
        """The served models that nobody hosts any more while requests that they let in are under way."""
        self._unhealthy = UnhealthySet()
        self.links = LinkWait()
        """The requests that wait for a link, or for news of what a process died of."""
        self.lives = LinkWait()
        """The requests that wait for a sign of life."""
        self.deaths = Deaths(self.links.linked, invite_of)

    @override
    def __repr__(self) -> str:
        return f"Balancer({len(self._served)} models in use, {self._unhealthy!r})"

    def served(self, model: ModelName, version: ModelVersion) -> ServedModel:
        """Return the traffic of the model at `version`, its newest when that is empty.

        Raises `ModelNotFound` when no node has it ready: what is kept is bounded by what the fleet replicas.
        """
        key = (model, version or self._fleet.newest(model))
        served = self._served.get(key)
        if served is None:
            if not self._fleet.has(*key):
                raise not_hosted(self._fleet, model, version)
            served = self._ending.pop(key, None)
            if served is None:
                served = self._made(*key)
            self._served[key] = served
        return served

    def _made(self, model: ModelName, version: ModelVersion) -> ServedModel:
        return ServedModel(
            self._fleet,
            model,
            version,
            make_policy=self._make_policy,
            rules=self._rules.of(model),
            rng=self._rng,
            unhealthy=self._unhealthy,
            links=self.links,
            lives=self.lives,
            deaths=self.deaths,
            is_limited=self._is_limited,
        )

    def foreseen(self, rng: random.Random) -> Balancer:
        """Return a balancer for a look ahead: what is in use is the same, and what it makes is its own and draws from `rng`."""
        other = Balancer(
            self._fleet,
            make_policy=self._make_policy,
            rng=rng,
            rules=self._rules,
            is_limited=self._is_limited,
        )
        other._served, other._ending = dict(self._served), dict(self._ending)
        other._unhealthy = self._unhealthy
        other.links, other.lives, other.deaths = self.links, self.lives, self.deaths
        return other

    def served_models(self) -> list[ServedModel]:
        """Return all that is in use, or was when requests that are under way came."""
        return [*self._served.values(), *self._ending.values()]

    @property
    def under_way(self) -> int:
        """Requests that were let in and have not ended."""
        return sum(served.admission.under_way for served in self.served_models())

    def refusals(self) -> Iterator[tuple[tuple[str, str, str], int]]:
        """Yield how many requests were not let in, by model, version and reason."""
        for served in self.served_models():
            for reason, count in served.admission.refusals.items():
                if count:
                    yield (served.model, served.version, reason), count

    def take_rules(self, rules: RoutingRules) -> None:
        """Go by other rules of the operator from now on, with what is in use as with what follows."""
        self._rules = rules
        for served in self.served_models():
            served.take_rules(rules.of(served.model))

    # probes

    def reprobes(self, now_s: float) -> list[Replica]:
        """Return whom to probe now: who is inhibited, and whose report may refuse requests; to be called every 50 ms or so."""
        due = self._unhealthy.reprobes(now_s)
        for served in self._served.values():
            due += served.admission.saturation.renewals(now_s)
        return due

    def probe_answered(
        self, replica: Replica, load: LoadReport, rtt_s: float, now_s: float
    ) -> None:
        """A probe of `replica`, whoever wanted it, was answered after `rtt_s`: also a sign of life."""
        endpoint = replica.endpoint
        endpoint.alive_s = max(endpoint.alive_s, now_s - rtt_s)
        endpoint.network.round_trip(rtt_s, now_s)
        endpoint.health.probed(now_s)
        replica.health.probed(now_s)
        self._reported(replica, load, now_s)
        self.lives.linked()

    def load_told(
        self,
        endpoint: Endpoint,
        model: ModelName,
        version: ModelVersion,
        load: LoadReport,
        now_s: float,
    ) -> None:
        """A node told unasked what its load is: requests were withdrawn there. One that tells more often than it may is not listened to."""
        replica = self._fleet.replica_at(endpoint, model, version)
        if replica is not None and now_s - replica.told_s >= TELL_S / 2:
            replica.told_s = now_s
            self._reported(replica, load, now_s)

    def _reported(self, replica: Replica, load: LoadReport, now_s: float) -> None:
        served = self._served.get((replica.offer.name, replica.offer.version))
        if served is not None:
            served.reported(replica, load, now_s)
        elif not replica.is_gone:
            replica.reported(load, now_s)  # for the model's first request

    def probe_failed(self, replica: Replica, now_s: float) -> None:
        """A probe of `replica` was not answered in time, or could not be sent.

        Of one that is well that says little, requests will tell; one that is on its way back is out again,
        before requests are lost on it.
        """
        for health in (replica.health, replica.endpoint.health):
            if not health.is_full and health.state(now_s) is CircuitState.RAMPING:
                health.failed(now_s, is_hard=True, cause="no answer to a probe")
                self._unhealthy.note(replica, now_s)

    # time

    def linked(self, endpoint: Endpoint, now_s: float) -> None:
        """An endpoint's link is up: that it was lost is over, and who waits for a link may go on."""
        endpoint.linked_s = now_s
        endpoint.is_missed = False
        process = endpoint.link.peer_process if endpoint.link is not None else b""
        if not process or process != endpoint.process:
            endpoint.process, endpoint.process_s = process, now_s
        self.deaths.linked(endpoint)
        endpoint.health.probed(now_s)
        self.links.linked()

    def missed(self, model: ModelName, version: ModelVersion) -> None:
        """A request for the model has failed for want of a link, "" being any version."""
        versions = (version,) if version else self._fleet.trusted(model)
        for each in versions:
            for replica in self._fleet.replicas(model, each):
                replica.endpoint.is_missed |= not replica.endpoint.is_usable

    def unlinked(self, endpoint: Endpoint, now_s: float) -> None:
        """An endpoint's link has ended."""
        endpoint.unlinked_s = now_s

    def tick(self, now_s: float) -> list[Verdict]:
        """Judge the replicas, forget what is gone; to be called about every second. Return what to log."""
        verdicts: list[Verdict] = []
        for key, served in list(self._served.items()):
            if self._fleet.has(*key):
                verdicts += served.tick(now_s)
            else:
                del self._served[key]
                self._ending[key] = served
        for key, served in list(self._ending.items()):
            if not served.admission.under_way:
                del self._ending[key]
        return [*self._unhealthy.settle(now_s), *verdicts]
