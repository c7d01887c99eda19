"""A simulated node: the production engine, run as a worker runs it, and its illnesses."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from typing_extensions import override

from capamesh.node.scheduling import DynamicBatcher, runner
from capamesh.protocol.adverts import NodeAdvert
from capamesh.protocol.errors import CapameshError, DeadlineExceeded, LinkLost, RunFailed
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import (
    ControlAction,
    ControlCall,
    InferAnswer,
    LoadReport,
    decode_answer,
    decode_load,
    decode_told_load,
    encode_call,
    encode_control,
    encode_probe,
    load_with,
)
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import LoadHandler, ResponseHandler
from capamesh.protocol.tensors import Limits
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.simulation import model as model_module
from capamesh.simulation.errors import InvariantBroken
from capamesh.simulation.events import Events
from capamesh.simulation.link import RouterEnd, SimLink
from capamesh.simulation.network import Network
from capamesh.simulation.node import SimNode
from capamesh.simulation.request import CallForm
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


class Caller(RouterEnd):
    """The router's end: counts nothing."""

    def __init__(self) -> None:
        self.is_down = False
        self.told: list[LoadReport] = []

    @override
    def load_told(self, link: SimLink, meta: bytes) -> None:
        self.told.append(decode_told_load(meta)[2])

    @override
    def link_up(self, link: SimLink) -> None: ...

    @override
    def link_down(self, link: SimLink) -> None:
        self.is_down = True

    @override
    def sent(self, link: SimLink) -> None: ...

    @override
    def probed(self, link: SimLink) -> None: ...


class Asker(ResponseHandler, LoadHandler):
    """One request of the caller; writes down what comes."""

    def __init__(self, here: Setting, number: int) -> None:
        self._here = here
        self._number = number

    @override
    def answered(self, answer: Answer) -> None:
        given = decode_answer(answer.meta, answer.body, Limits())
        self._here.note((self._number, (given.queue_us + given.run_us) / 1e6))
        self._here.answers.append(given)

    @override
    def reported(self, meta: bytes) -> None:
        self._here.loads.append(decode_load(meta))

    @override
    def failed(self, error: CapameshError) -> None:
        self._here.note((self._number, error.code))
        self._here.failed_loads.append(load_with(error))


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
            fleet_size=1,
            publish=self.adverts.append,
        )
        spec = NetworkSpec(one_way_s=WAY_S, jitter=0.0)
        network = Network(spec, self.events, random.Random(1))
        self.caller = Caller()
        endpoint = Endpoint(self.node.peer, "a:1")
        self.keeper = network.keep(self.caller, self.node, endpoint, ("local", "local"))
        self.keeper.connect()
        self.keeper.stop()
        assert self.keeper.link is not None
        self.link = self.keeper.link
        self.sent = 0
        self.got: list[tuple[float, object]] = []
        self.answers: list[InferAnswer] = []
        self.loads: list[LoadReport] = []
        self.failed_loads: list[LoadReport | None] = []

    def note(self, what: object) -> None:
        self.got.append((round(self.events.now_s, 6), what))

    def ask(self, kind: RequestKind = KIND, budget_s: float = 10.0) -> int:
        """Send a request; return its number on the link."""
        request = CallForm(kind).call("", 0.0).request.replace(version=ModelVersion("1"))
        meta, body = encode_call(request, round(budget_s * 1000))
        asker = Asker(self, self.sent)
        self.sent += 1
        return self.link.ask(meta, body, asker)

    def probe(self) -> None:
        meta = encode_probe(ModelName("m"), ModelVersion("1"))
        self.link.ask_load(meta, Asker(self, -1))

    @property
    def batcher(self) -> DynamicBatcher:
        (model,) = self.node.models.values()
        return model.batcher

    def run(self, until_s: float = 100.0) -> list[tuple[float, object]]:
        self.events.run_until(until_s)
        return self.got


def test_short_run_is_what_the_real_runner_calls_short() -> None:
    assert runner.SHORT_S == model_module.SHORT_S


def test_requests_run_one_after_the_other_and_say_how_long_they_were_there() -> None:
    here = Setting(slowness=2.0)
    here.ask()
    here.ask()
    assert here.run() == [(0.7, (0, 0.2)), (0.9, (1, 0.4))]
    assert [answer.load.in_flight for answer in here.answers] == [1, 0]


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
    batcher = here.batcher
    assert len(batcher._requests.running) == 2
    here.node.withdrawn(here.link, asked[4])
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


def test_request_withdrawn_while_its_node_stands_still_is_not_run() -> None:
    here = Setting()
    here.events.at(0.1, here.node.freeze)
    here.ask()
    behind = here.ask()
    here.events.at(1.0, here.link.withdraw, behind)
    here.events.at(2.0, here.node.thaw)
    assert here.run() == [(2.35, (0, 0.1))]
    assert here.batcher.meter.rows == 1


def test_node_that_stands_still_for_long_loses_its_links_and_runs_nothing_for_them() -> None:
    here = Setting()
    here.events.at(0.1, here.node.freeze)
    here.ask()
    here.events.at(20.0, here.node.thaw)
    ((at_s, what),) = here.run()
    assert what == (0, LinkLost.code)
    assert 6.0 < at_s < 8.2
    assert here.caller.is_down
    assert here.node.device_in_flight() == 0


def test_node_that_ends_loses_what_it_had_and_is_empty_when_it_is_back() -> None:
    here = Setting()
    old = here.ask()
    here.events.at(0.3, here.node.kill)
    here.events.at(1.0, here.node.start)
    assert here.run(2.0) == [(0.55, (0, LinkLost.code))]
    assert here.node.device_in_flight() == 0
    here.node.withdrawn(here.link, old)  # a late word about a request of its former life
    assert [advert.is_draining for advert in here.adverts] == [False]
    assert here.adverts[0].sequence.boot_ns == 2


def test_node_that_drains_answers_all_and_then_says_that_it_is_empty() -> None:
    here = Setting(slowness=10.0)
    here.ask()
    done: list[float] = []
    here.events.at(0.3, here.node.drain, lambda: done.append(here.events.now_s))
    here.run(2.0)
    assert done == [1.25]
    assert here.link.has_gone_away
    assert [advert.is_draining for advert in here.adverts] == [True]


def test_run_that_fails_tells_the_load_of_its_model() -> None:
    here = Setting()
    here.node.error_share = 1.0
    here.ask()
    here.ask()
    here.run()
    assert [load and load.in_flight for load in here.failed_loads] == [1, 0]


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
    said = here.answers[0].load
    assert (said.in_flight, said.latency_us, said.queue_us, said.device_in_flight) == (0, 1, 0, 0)
    assert said.limit == 10**9


def test_probe_is_answered_with_the_load_of_its_model_also_by_a_liar() -> None:
    here = Setting()
    here.ask()
    here.probe()
    here.run(1.0)
    here.node.is_liar = True
    here.ask()
    here.probe()
    here.run(2.0)
    assert [(load.in_flight, load.limit == 10**9) for load in here.loads] == [(1, False), (0, True)]


def test_answer_is_as_large_as_its_request() -> None:
    here = Setting()
    here.ask(RequestKind("r", "m", rows=2, size_bytes=999, deadline_s=10.0))
    here.run()
    (output,) = here.answers[0].outputs
    assert (output.name, output.shape, len(output.data)) == ("y", (2, 250), 500)


def test_node_advertises_again_and_again_but_not_while_it_stands_still_or_is_gone() -> None:
    here = Setting()
    here.node.announce()
    here.run(45.0)
    counts = [len(here.adverts)]
    assert [advert.interval_s for advert in here.adverts] == [10] * counts[0]
    here.node.freeze()
    here.run(100.0)
    counts.append(len(here.adverts))
    here.node.thaw()
    counts.append(len(here.adverts))
    here.node.kill()
    here.run(200.0)
    counts.append(len(here.adverts))
    assert counts == [5, 5, 6, 6]
    versions = [advert.sequence.counter for advert in here.adverts]
    assert versions == sorted(set(versions))


def test_node_that_is_sent_what_a_router_of_a_simulation_does_not_send_says_so() -> None:
    here = Setting()
    meta = encode_control(ControlCall(ControlAction.WANT, ModelName("m"), ModelVersion("1")))
    here.link.ask(meta, (), Asker(here, 0))
    with pytest.raises(InvariantBroken, match="was sent ControlCall"):
        here.run()


def test_routers_are_told_of_what_was_withdrawn() -> None:
    here = Setting()
    streams = [here.ask() for _ in range(5)]
    here.run(0.05)
    for stream in streams:
        here.link.withdraw(stream)
    here.run(2.0)
    (load,) = here.caller.told
    assert (load.in_flight, load.queued) == (0, 0)
