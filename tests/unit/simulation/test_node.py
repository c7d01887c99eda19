"""A simulated node: the production engine, run as a worker runs it, and its illnesses."""

from __future__ import annotations

import random

import pytest

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
KIND = RequestKind("r", "m", deadline_s=10.0)
WAY_S = 0.25
"""So that sums of times are exact enough to read."""
Got = list[tuple[float, object]]


class Asker(ResponseHandler, LoadHandler):
    """One request of the caller; writes down what comes."""

    def __init__(self, here: Setting, number: int = -1) -> None:
        self._here = here
        self._number = number

    def answered(self, answer: Answer) -> None:
        given = decode_answer(answer.meta, answer.body, Limits())
        self._note((given.queue_us + given.run_us) / 1e6)
        self._here.answers.append(given)

    def reported(self, meta: bytes) -> None:
        self._here.loads.append(decode_load(meta))

    def failed(self, error: CapameshError) -> None:
        self._note(error.code)
        self._here.failed_loads.append(load_with(error))

    def _note(self, what: object) -> None:
        self._here.got.append((round(self._here.events.now_s, 6), (self._number, what)))


class Setting(RouterEnd):
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
        network = Network(NetworkSpec(one_way_s=WAY_S, jitter=0.0), self.events, random.Random(1))
        endpoint = Endpoint(self.node.peer, "a:1")
        keeper = network.keep(self, self.node, endpoint, ("local", "local"))
        keeper.connect()
        keeper.stop()
        assert keeper.link is not None
        self.link = keeper.link
        self.is_down = False
        self.sent_requests = 0
        self.got: Got = []
        self.answers: list[InferAnswer] = []
        self.loads: list[LoadReport] = []
        self.failed_loads: list[LoadReport | None] = []
        self.told: list[LoadReport] = []
        """The loads that came unasked."""

    def load_told(self, link: SimLink, meta: bytes) -> None:
        self.told.append(decode_told_load(meta)[2])

    def link_down(self, link: SimLink) -> None:
        self.is_down = True

    def ask(self, kind: RequestKind = KIND, budget_s: float = 10.0) -> int:
        """Send a request; return its number on the link."""
        request = CallForm(kind).call("", 0.0).request.replace(version=ModelVersion("1"))
        meta, body = encode_call(request, round(budget_s * 1000))
        self.sent_requests += 1
        return self.link.ask(meta, body, Asker(self, self.sent_requests - 1))

    @property
    def batcher(self) -> DynamicBatcher:
        (model,) = self.node.models.values()
        return model.batcher

    def run(self, until_s: float = 100.0) -> Got:
        self.events.run_until(until_s)
        return self.got


@pytest.fixture
def here() -> Setting:
    return Setting()


def test_short_run_is_what_the_real_runner_calls_short() -> None:
    assert runner.SHORT_S == model_module.SHORT_S


def test_requests_run_one_after_the_other_or_together_and_say_how_long_they_were_there() -> None:
    here = Setting(slowness=2.0)
    for _ in range(2):
        here.ask(RequestKind("r", "m", size_bytes=999, deadline_s=10.0))
    assert here.run() == [(0.7, (0, 0.2)), (0.9, (1, 0.4))]
    assert [answer.load.in_flight for answer in here.answers] == [1, 0]
    (output,) = here.answers[0].outputs
    assert (output.name, output.shape, len(output.data)) == ("y", (1, 500), 500)
    here = Setting(ModelSpec("m", service_profile(((1, 0.1), (4, 0.2))), batch_rows=4))
    for _ in range(5):
        here.ask()
    # the first runs alone, the four behind it as one batch
    assert here.run() == [(0.6, (0, 0.1)), *[(0.8, (n, 0.3)) for n in (1, 2, 3, 4)]]


def test_full_batch_made_ready_ahead_runs_without_those_who_have_left() -> None:
    here = Setting(ModelSpec("m", service_profile(((1, 0.05), (4, 0.1))), batch_rows=4))
    asked = [here.ask() for _ in range(5)]
    here.events.run_until(WAY_S + 0.01)
    assert len(here.batcher._requests.running) == 2
    here.node.withdrawn(here.link, asked[4])
    assert here.run()[1:] == [(0.633333, (n, 0.133333)) for n in (1, 2, 3)]
    assert (here.batcher.is_idle, here.batcher.meter.rows) == (True, 4)


def test_deadline_ends_what_waits_even_while_the_node_is_busy() -> None:
    here = Setting(slowness=20.0)
    here.ask()
    here.ask(budget_s=0.5)
    assert here.run() == [(1.0, (1, DeadlineExceeded.code)), (2.5, (0, 2.0))]
    assert here.node.device_in_flight() == 0


def test_node_that_stands_still_goes_on_as_if_nothing_had_been(here: Setting) -> None:
    here.ask()
    here.events.at(0.3, here.node.freeze)
    here.events.at(2.0, here.node.thaw)
    here.events.at(1.0, here.ask)
    assert here.run() == [(2.25, (0, 1.75)), (2.35, (1, 0.1))]


def test_request_withdrawn_while_its_node_stands_still_is_not_run(here: Setting) -> None:
    here.events.at(0.1, here.node.freeze)
    here.ask()
    here.events.at(1.0, here.link.withdraw, here.ask())
    here.events.at(2.0, here.node.thaw)
    assert here.run() == [(2.35, (0, 0.1))]
    assert here.batcher.meter.rows == 1


def test_node_that_stands_still_for_long_loses_its_links_and_what_came_by_them(
    here: Setting,
) -> None:
    here.events.at(0.1, here.node.freeze)
    here.ask()
    here.events.at(20.0, here.node.thaw)
    ((at_s, what),) = here.run()
    assert (what, here.is_down, 6.0 < at_s < 8.2) == ((0, LinkLost.code), True, True)
    assert here.node.device_in_flight() == 0


def test_node_that_ends_loses_what_it_had_and_is_empty_when_it_is_back(here: Setting) -> None:
    old = here.ask()
    here.events.at(0.3, here.node.kill)
    here.events.at(1.0, here.node.start)
    assert here.run(2.0) == [(0.55, (0, LinkLost.code))]
    assert here.node.device_in_flight() == 0
    here.node.withdrawn(here.link, old)  # a late word about a request of its former life
    assert [(each.is_draining, each.sequence.boot_ns) for each in here.adverts] == [(False, 2)]


def test_node_that_drains_answers_all_and_then_says_that_it_is_empty() -> None:
    here = Setting(slowness=10.0)
    here.ask()
    done: list[float] = []
    here.events.at(0.3, here.node.drain, lambda: done.append(here.events.now_s))
    here.run(2.0)
    assert (done, here.link.has_gone_away) == ([1.25], True)
    assert [advert.is_draining for advert in here.adverts] == [True]


def test_illnesses_are_had_and_got_over(here: Setting) -> None:
    for at_s, kind, name, amount in (
        (1.0, FaultKind.FAST_ERRORS, "fast_error_share", 1.0),
        (2.0, FaultKind.ERRORS, "error_share", 1.0),
        (3.0, FaultKind.SILENT, "silent_share", 1.0),
        (4.0, FaultKind.SLOW, "slow_factor", 3.0),
    ):
        setattr(here.node, name, amount)
        here.ask()
        here.run(at_s)
        here.node.recover(kind)
    here.ask()
    failed = RunFailed.code
    assert here.run() == [(0.5, (0, failed)), (1.6, (1, failed)), (3.8, (3, 0.3)), (4.6, (4, 0.1))]
    assert [load and load.in_flight for load in here.failed_loads] == [
        None,
        0,
    ]  # a fast one tells none
    with pytest.raises(ValueError, match="kill is no illness"):
        here.node.recover(FaultKind.KILL)


def test_liar_says_that_it_is_idle_in_its_answers_and_to_probes(here: Setting) -> None:
    for is_liar, until_s in ((False, 1.0), (True, 2.0)):
        here.node.is_liar = is_liar
        here.ask()
        meta = encode_probe(ModelName("m"), ModelVersion("1"))
        here.link.ask_load(meta, Asker(here))
        here.ask()
        here.run(until_s)
    assert [(load.in_flight, load.limit == 10**9) for load in here.loads] == [(1, False), (0, True)]
    said = here.answers[2].load
    assert (said.in_flight, said.latency_us, said.queue_us, said.device_in_flight) == (0, 1, 0, 0)
    assert said.limit == 10**9


def test_node_advertises_again_and_again_but_not_while_it_stands_still_or_is_gone(
    here: Setting,
) -> None:
    counts = []
    for do, until_s in (
        (here.node.announce, 45.0),
        (here.node.freeze, 100.0),
        (here.node.thaw, 100.0),
        (here.node.kill, 200.0),
    ):
        do()
        here.run(until_s)
        counts.append(len(here.adverts))
    assert counts == [5, 5, 6, 6]
    assert [advert.interval_s for advert in here.adverts] == [10] * 6
    versions = [advert.sequence.counter for advert in here.adverts]
    assert versions == sorted(set(versions))


def test_node_that_is_sent_what_a_router_of_a_simulation_does_not_send_says_so(
    here: Setting,
) -> None:
    meta = encode_control(ControlCall(ControlAction.WANT, ModelName("m"), ModelVersion("1")))
    here.link.ask(meta, (), Asker(here))
    with pytest.raises(InvariantBroken, match="was sent ControlCall"):
        here.run()


def test_routers_are_told_of_what_was_withdrawn(here: Setting) -> None:
    streams = [here.ask() for _ in range(5)]
    here.run(0.05)
    for stream in streams:
        here.link.withdraw(stream)
    here.run(2.0)
    assert [(load.in_flight, load.queued) for load in here.told] == [(0, 0)]
