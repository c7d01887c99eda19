"""A simulated node: the production engine, run as a worker runs it, and its illnesses."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from capamesh.node.scheduling import runner
from capamesh.protocol.adverts import NodeAdvert
from capamesh.protocol.errors import CapameshError, DeadlineExceeded, LinkLost, RunFailed
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.simulation import model as model_module
from capamesh.simulation.events import Events
from capamesh.simulation.exchange import Exchange, Probe, SimRequest
from capamesh.simulation.network import Network, SimLink
from capamesh.simulation.node import SimNode
from capamesh.simulation.scenario import (
    FaultKind,
    ModelSpec,
    NetworkSpec,
    NodeGroup,
    RequestKind,
    service_profile,
)

MODEL = ModelSpec("m", service_profile(((1, 0.1),)))
BATCHING = ModelSpec("m", service_profile(((1, 0.1), (4, 0.2))), batch_rows=4)
KIND = RequestKind("r", "m", deadline_s=10.0)
WAY_S = 0.25
"""So that sums of times are exact enough to read."""


class Caller:
    """The router's end: writes down what comes."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.got: list[tuple[float, object]] = []
        self.loads: list[LoadReport] = []

    def _note(self, what: object) -> None:
        self.got.append((round(self.events.now_s, 6), what))

    def link_up(self, link: SimLink) -> None: ...

    def link_down(self, link: SimLink, error: LinkLost) -> None:
        link.pending.clear()
        self._note("link down")

    def answered(self, exchange: Exchange, load: LoadReport, at_node_s: float) -> None:
        self._note((exchange.attempt, round(at_node_s, 6)))
        self.loads.append(load)

    def failed_at_node(self, exchange: Exchange, error: CapameshError) -> None:
        self._note((exchange.attempt, error.code))

    def load_reported(self, probe: Probe, load: LoadReport) -> None:
        self.loads.append(load)


class Setting:
    """A node with one model, and a caller 0.25 s away."""

    def __init__(self, model: ModelSpec = MODEL, **group: float) -> None:
        self.events = Events()
        self.adverts: list[NodeAdvert] = []
        self.node = SimNode(
            0,
            NodeGroup("n", 1, noise=0.0, **group),
            (model,),
            self.events,
            random.Random(1),
            publish=self.adverts.append,
        )
        spec = NetworkSpec(one_way_s=WAY_S, jitter=0.0)
        network = Network(spec, self.events, random.Random(1))
        self.caller = Caller(self.events)
        endpoint = Endpoint(self.node.peer, "a:1")
        self.keeper = network.keep(self.caller, self.node, endpoint, ("local", "local"))  # type: ignore[arg-type]
        self.keeper.connect()
        self.keeper.stop()
        assert self.keeper.link is not None
        self.link = self.keeper.link
        self.sent = 0

    def ask(self, kind: RequestKind = KIND, budget_s: float = 10.0) -> Exchange:
        request = SimRequest(kind, self.events.now_s, None)  # type: ignore[arg-type]
        exchange = Exchange(request, self.sent, None, self.link, budget_s)  # type: ignore[arg-type]
        self.sent += 1
        self.link.pending[exchange] = None
        self.link.to_node(0, self.node.requested, exchange)
        return exchange

    def run(self, until_s: float = 100.0) -> list[tuple[float, object]]:
        self.events.run_until(until_s)
        return self.caller.got


def test_short_run_is_what_the_real_runner_calls_short() -> None:
    assert runner.SHORT_S == model_module.SHORT_S


def test_requests_run_one_after_the_other_and_say_how_long_they_were_there() -> None:
    here = Setting(slowness=2.0)
    here.ask()
    here.ask()
    assert here.run() == [(0.7, (0, 0.2)), (0.9, (1, 0.4))]
    assert [load.in_flight for load in here.caller.loads] == [1, 0]


def test_waiting_requests_run_together() -> None:
    here = Setting(BATCHING)
    for _ in range(5):
        here.ask()
    # the first runs alone, the four behind it as one batch
    assert here.run() == [(0.6, (0, 0.1)), *[(0.8, (n, 0.3)) for n in (1, 2, 3, 4)]]


def test_full_batch_made_ready_ahead_runs_without_those_who_have_left() -> None:
    short = replace(BATCHING, profile=service_profile(((1, 0.05), (4, 0.1))))
    here = Setting(short)
    asked = [here.ask() for _ in range(5)]
    here.events.run_until(WAY_S + 0.01)
    batcher = here.node.models["m"].batcher
    assert len(batcher._requests.running) == 2
    here.node.withdrawn(asked[4])
    assert here.run()[1:] == [(0.633333, (n, 0.133333)) for n in (1, 2, 3)]
    assert batcher.is_idle
    assert batcher.meter.rows == 4


def test_deadline_ends_what_waits_even_while_the_node_is_busy() -> None:
    here = Setting(slowness=20.0)
    here.ask()
    here.ask(budget_s=0.5)
    assert here.run() == [(1.0, (1, DeadlineExceeded.code)), (2.5, (0, 2.0))]
    assert here.node.device_in_flight() == 0


def test_node_that_stands_still_goes_on_as_if_nothing_had_been() -> None:
    here = Setting()
    here.ask()
    here.events.at(0.3, here.node.freeze)
    here.events.at(2.0, here.node.thaw)
    here.events.at(1.0, here.ask)
    assert here.run() == [(2.25, (0, 1.75)), (2.35, (1, 0.1))]


def test_node_that_stands_still_for_long_loses_its_links_and_runs_nothing_for_them() -> None:
    here = Setting()
    here.events.at(0.1, here.node.freeze)
    here.ask()
    here.events.at(20.0, here.node.thaw)
    (only,) = here.run()
    assert only[1] == "link down"
    assert 6.0 < only[0] < 8.2
    assert here.node.device_in_flight() == 0


def test_node_that_ends_loses_what_it_had_and_is_empty_when_it_is_back() -> None:
    here = Setting()
    old = here.ask()
    here.events.at(0.3, here.node.kill)
    here.events.at(1.0, here.node.start)
    assert here.run() == [(0.55, "link down")]
    assert here.node.device_in_flight() == 0
    here.node.withdrawn(old)  # a late word about a request of its former life
    assert [advert.is_draining for advert in here.adverts] == [False]


def test_node_that_drains_answers_all_and_then_says_that_it_is_empty() -> None:
    here = Setting(slowness=10.0)
    here.ask()
    done: list[float] = []
    here.events.at(0.3, here.node.drain, lambda: done.append(here.events.now_s))
    here.run()
    assert done == [1.25]
    assert here.link.has_gone_away
    assert [advert.is_draining for advert in here.adverts] == [True]


def test_illnesses_are_had_and_got_over() -> None:
    here = Setting()
    node = here.node
    node.fast_error_share = 1.0
    here.ask()
    here.run(1.0)
    node.recover(FaultKind.FAST_ERRORS)
    node.error_share = 1.0
    here.ask()
    here.run(2.0)
    node.recover(FaultKind.ERRORS)
    node.silent_share = 1.0
    here.ask()
    here.run(3.0)
    node.recover(FaultKind.SILENT)
    node.slow_factor = 3.0
    here.ask()
    here.run(4.0)
    node.recover(FaultKind.SLOW)
    here.ask()
    failed = RunFailed.code
    assert here.run() == [(0.5, (0, failed)), (1.6, (1, failed)), (3.8, (3, 0.3)), (4.6, (4, 0.1))]
    with pytest.raises(ValueError, match="kill is no illness"):
        node.recover(FaultKind.KILL)


def test_liar_says_that_it_is_idle() -> None:
    here = Setting()
    here.node.is_liar = True
    here.ask()
    here.ask()
    here.run()
    said = here.caller.loads[0]
    assert (said.in_flight, said.latency_us, said.queue_us, said.device_in_flight) == (0, 1, 0, 0)
    assert said.limit == 10**9
