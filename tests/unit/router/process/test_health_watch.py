"""The watch over the nodes' health: what a link that is up or gone means, and which turns come how often."""

from __future__ import annotations

import asyncio
from typing import Any

from fleet_fakes import Fleet, NullLog, echo

from capamesh.protocol.errors import LinkLost
from capamesh.router.balancing.unhealthy import Verdict
from capamesh.router.process.health_watch import HealthWatch
from capamesh.router.resilience.health import CircuitState
from capamesh.router.supervision import Supervisor


class Watched:
    """A fleet of one node, and the watch over it."""

    def __init__(self) -> None:
        self.fleet = Fleet([echo])
        self.log = NullLog()
        log: Any = self.log
        self.verdicts: list[Verdict] = []
        self.watch = HealthWatch(
            self.fleet.view,
            self.fleet.balancer,
            self.fleet.prober,
            self.fleet.routing,
            do=Supervisor(self.fleet.telemetry, log, clock=self.fleet.clock).do,
            on_verdict=self.verdicts.append,
            clock=self.fleet.clock,
            timers=asyncio.get_running_loop(),
        )


async def test_node_that_is_linked_is_asked_for_its_load_and_is_lost_no_more() -> None:
    watched = Watched()
    (endpoint,), (link,) = watched.fleet.endpoints, watched.fleet.links
    endpoint.health.failed(watched.fleet.clock(), is_hard=True, cause="link_lost: reset")
    watched.watch.linked(endpoint)
    assert [(probe.model, probe.version) for probe in link.probes] == [("m", "1")]
    assert endpoint.health.state(watched.fleet.clock()) is not CircuitState.INHIBITED
    watched.fleet.prober.close()
    assert not link.probing


async def test_node_that_failed_is_asked_for_a_sign_of_life() -> None:
    watched = Watched()
    fleet = watched.fleet
    (replica,), (link,) = fleet.replicas, fleet.links
    fleet.served().failed(replica, LinkLost("reset"), 0.1, fleet.clock())
    watched.watch.start()
    await asyncio.sleep(1.0)
    assert link.probes
    watched.watch.close()
    assert not link.probing
    assert fleet.prober.sent == len(link.probes)
