"""Answers in parts: what commits to a node, what is told when it breaks off, who is waited for, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import Ask, Fleet, answer_of, call, echo, failing, fp32, hang, offer
from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    LinkLost,
    ModelUnavailable,
    PeerError,
    ProtocolViolation,
    RunFailed,
)
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.links.events import Answer
from capamesh.router.requests.call import NO_OPTIONS, Call, Outcome, Part, Responder
from capamesh.router.resilience.hedging import SILENT_NEW_S

LOOP = replace(offer(), max_parts=10)


class Client(Responder):
    """Takes parts, and releases them at once unless it stalls."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.values: list[float] = []
        self.end: Outcome | CapameshError | None = None
        self.is_stalling = False
        self.on_part: Callable[[], None] = lambda: None
        self.handle: Any = None

    @override
    def take_part(self, part: Part) -> None:
        assert self.end is None
        assert part.number == len(self.parts) + 1
        self.parts.append(part)
        self.values.append(value_of(part.outcome))
        if not self.is_stalling:
            part.release()
        self.on_part()

    @override
    def complete(self, outcome: Outcome) -> None:
        assert self.end is None
        self.end = outcome

    @override
    def fail(self, error: CapameshError) -> None:
        assert self.end is None
        self.end = error


def value_of(outcome: Outcome) -> float:
    return float(outcome.answer.outputs[0].to_numpy()[0, 0])


def part(value: float, load: LoadReport | None = None) -> Answer:
    return answer_of("1", fp32("y", [value, value]), load=load)


def fleet_of(*scripts: Callable[[Ask], None]) -> Fleet:
    fleet = Fleet()
    for peer, script in zip("AB", scripts, strict=False):
        fleet.node(peer, script, models=[LOOP])
    return fleet


def begin(fleet: Fleet, *, left_s: float = 60.0, takes_parts: bool = True) -> Client:
    client = Client()
    asked = call().replace(takes_parts=takes_parts)
    client.handle = fleet.routing.pipeline.start(
        Call(asked, NO_OPTIONS, fleet.clock() + left_s), client
    )
    return client


def asked(fleet: Fleet, node: int = 0) -> Ask:
    return fleet.links[node].asks[-1]


async def test_failure_before_the_first_part_is_tried_elsewhere() -> None:
    fleet = fleet_of(failing(RunFailed("it fell over")), hang)
    client = begin(fleet)
    await asyncio.sleep(0.01)
    assert fleet.asked == [1, 1]
    asked(fleet, 1).part(part(1))
    asked(fleet, 1).answer(part(2))
    assert client.values == [1]
    assert isinstance(client.end, Outcome)
    assert client.end.attempts == 2
    assert fleet.counts == {}


@pytest.mark.parametrize(
    "error", [RunFailed("it fell over"), LinkLost("gone"), ModelUnavailable("leaving")]
)
async def test_failure_after_it_is_told_with_the_number_of_parts(error: CapameshError) -> None:
    fleet = fleet_of(hang, echo)
    client = begin(fleet)
    for value in (1, 2):
        asked(fleet).part(part(value))
    asked(fleet).fail(error)
    end = client.end
    assert isinstance(end, PeerError)
    assert end.message == f"the answer broke off after 2 parts: {error.message}"
    # that it never ran would be untrue: some callers would send it again at once
    assert type(end) is (RunFailed if isinstance(error, ModelUnavailable) else type(error))
    assert (end.parts, fleet.asked, fleet.counts) == (2, [1, 0], {})
    await asyncio.sleep(70)
    assert fleet.asked == [1, 0]


async def test_node_that_calls_the_request_wrong_after_it_had_begun_has_failed() -> None:
    for error, text in (
        (InvalidRequest("bad"), "the node answered invalid_request after it had begun: bad"),
        (DeadlineExceeded("late"), "the node answered deadline_exceeded with 60.000 s left: late"),
    ):
        fleet = fleet_of(hang)
        client = begin(fleet)
        asked(fleet).part(part(1))
        asked(fleet).fail(error)
        assert isinstance(client.end, PeerError)
        assert client.end.message == f"the answer broke off after 1 part: {text}"
        assert (fleet.endpoints[0].failed, fleet.replicas[0].health.consecutive) == (1, 1)
        assert fleet.counts == {}


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_client_that_leaves_stops_the_node_at_once_also_while_it_is_given_a_part(
    number: int,
) -> None:
    fleet = fleet_of(hang)
    client = begin(fleet)
    leave = client.handle.cancel
    client.on_part = lambda: leave() if len(client.parts) == number else None
    for value in range(number):
        asked(fleet).part(part(value))
    leave()
    assert asked(fleet).ended == "withdrawn"
    assert not asked(fleet).part(part(9))
    assert (client.end, fleet.counts, len(fleet.dispatch.alarms)) == (None, {}, 0)
    for each in client.parts:
        each.release()  # late, and of no matter


@pytest.mark.parametrize("stalls_s", [0, 30])
async def test_node_that_sends_nothing_for_too_long_is_given_up_and_a_client_s_pause_is_not_its(
    stalls_s: float,
) -> None:
    fleet = fleet_of(hang)
    client = begin(fleet)
    client.is_stalling = stalls_s > 0
    asked(fleet).part(part(1))
    await asyncio.sleep(stalls_s)
    assert (client.end, fleet.served().hedging.gaps.count) == (None, 0)
    if stalls_s:
        client.parts[0].release()
    await asyncio.sleep(SILENT_NEW_S - 0.1)
    assert client.end is None
    await asyncio.sleep(0.2)
    assert isinstance(client.end, PeerError)
    said = "the answer broke off after 1 part: the node has sent nothing for 5.0 s"
    assert client.end.message == said
    assert (asked(fleet).ended, fleet.counts) == ("withdrawn", {})
    assert not fleet.endpoints[0].health.may_send(fleet.clock())


async def test_deadline_ends_an_answer_that_goes_on() -> None:
    fleet = fleet_of(hang)
    client = begin(fleet, left_s=3.0)
    for value in range(3):
        asked(fleet).part(part(value))
        await asyncio.sleep(0.9)
    await asyncio.sleep(0.4)
    assert isinstance(client.end, DeadlineExceeded)
    assert (client.end.parts, asked(fleet).ended, fleet.counts) == (3, "withdrawn", {})


async def test_node_that_sends_more_parts_than_it_advertises_is_stopped() -> None:
    fleet = fleet_of(hang)
    client = begin(fleet)
    while asked(fleet).part(part(1)):
        pass
    assert len(client.parts) == LOOP.max_parts - 1
    assert isinstance(client.end, ProtocolViolation)
    assert "more than the 10 parts that it advertises" in client.end.message
    assert (asked(fleet).ended, fleet.counts) == ("withdrawn", {})


@pytest.mark.pure  # the limit is a constant of a compiled module
async def test_answer_of_too_many_bytes_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.router.requests.answer_parts.MOST_BYTES", 20)
    fleet = fleet_of(hang)
    client = begin(fleet)
    for _ in range(3):
        asked(fleet).part(part(1))
    assert client.values == [1, 1]
    assert isinstance(client.end, ProtocolViolation)


async def test_part_that_is_not_what_the_node_advertises_is_not_passed_on() -> None:
    wrong = answer_of("1", fp32("other", [1, 1]))
    fleet = fleet_of(hang, hang)
    client = begin(fleet)
    assert asked(fleet).part(wrong)  # before the first part another node is asked
    assert (asked(fleet).ended, fleet.asked, client.end) == ("withdrawn", [1, 1], None)
    asked(fleet, 1).part(part(1))
    asked(fleet, 1).part(Answer(b"\xc1", memoryview(b"")))
    assert isinstance(client.end, ProtocolViolation)
    assert (client.end.parts, fleet.counts) == (1, {})


@pytest.mark.parametrize("is_stalling", [True, False])
async def test_answer_that_lasts_leaves_room_for_others_at_its_node(is_stalling: bool) -> None:
    fleet = fleet_of(hang)
    first = begin(fleet)
    first.is_stalling = is_stalling
    for value in range(1 if is_stalling else 8):
        asked(fleet).part(part(value))
        await asyncio.sleep(1)
    if is_stalling:
        await asyncio.sleep(20)
    assert first.end is None
    second = begin(fleet)  # it is admitted
    assert (fleet.asked, fleet.served().admission.saturation.level < 1) == ([2], True)
    asked(fleet).answer(part(1))
    (replica,) = fleet.replicas
    assert (isinstance(second.end, Outcome), replica.rif, replica.streams) == (True, 1, 1)
    first.handle.cancel()
    assert (replica.rif, replica.streams, fleet.counts) == (0, 0, {})
