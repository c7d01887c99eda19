"""A language model's requests through `ModelRunner`, on slots without a model."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from generation_fakes import FakeSlots, LetterText, ids_alone
from worker_fakes import FakeSwitch

from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.devices.in_flight_page import InFlightPage, Marked, Phase
from capamesh.node.generation import (
    GenerationRequest,
    GenerationSettings,
    SamplingParameters,
    TokenLogprob,
    TokenPart,
    Usage,
)
from capamesh.node.generation.slots import Logits
from capamesh.node.runtime.text_generation.text_model import ReadCall
from capamesh.node.runtime.text_generation.tool_formats import HERMES
from capamesh.node.runtime.text_generation.tool_reader import ToolCallReader
from capamesh.node.scheduling import (
    PendingRequest,
    Result,
)
from capamesh.node.scheduling.generation_answer import GenerationAnswer
from capamesh.node.scheduling.generation_runner import GenerationRunner
from capamesh.node.scheduling.generation_scheduler import GenerationScheduler
from capamesh.node.scheduling.run_health import FAILED_REQUESTS
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.node.scheduling.stats import Meter
from capamesh.node.scheduling.watched_slots import WatchedSlots
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import BYTES, Tensor, join_elements, split_elements

LIMIT_S = 30.0
GREEDY = SamplingParameters(temperature=0.0)


class Text:
    """Reads `{"prompt": [..], "max_tokens": n, "n": n}`; what has no prompt is refused, and `gate` holds it up."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.read_raws: list[bytes] = []

    def token_text(self, token: int) -> str:
        return str(token)

    def read(
        self, raw: bytes, *, priority: float, deadline_s: float | None, is_bulk: bool = False
    ) -> ReadCall:
        assert self.gate.wait(LIMIT_S)
        self.read_raws.append(bytes(raw))
        fields = json.loads(bytes(raw))
        if "prompt" not in fields:
            raise InvalidRequest("no prompt")
        if "bug" in fields:
            raise ZeroDivisionError
        request = GenerationRequest(
            tuple(fields["prompt"]),
            fields["max_tokens"],
            GREEDY,
            choices=fields.get("n", 1),
            resumed=tuple(fields.get("so_far", ())),
            is_bulk=is_bulk,
        )
        return ReadCall((request,), LetterText, None, "", 7)


class GatedSlots(FakeSlots):
    """Slots of which each decoding step waits until it is let."""

    def __init__(self) -> None:
        super().__init__(4)
        self.gate = threading.Semaphore(0)
        self.steps = 0
        self.is_open = True
        self.is_in_step = threading.Event()

    def decode(self, tokens: Sequence[int]) -> Logits:
        self.is_in_step.set()
        if not self.is_open:
            assert self.gate.acquire(timeout=LIMIT_S)
        self.steps += 1
        return super().decode(tokens)


class Desk:
    """A model runner with a language model's scheduler."""

    def __init__(self, folder: Path, most_in_flight: int = 16) -> None:
        self.slots, self.text = GatedSlots(), Text()
        self.page = InFlightPage.create(folder / "page")
        marks = InFlightJournal(self.page)
        number = marks.number("m", "1", "")
        self.now_s: float | None = None
        self.stuck: list[str] = []
        meter = Meter()
        watch = {"watchdog_s": 60.0, "on_stuck": self.stuck.append}
        common: Any = {"clock": self.clock, "marks": marks, "number": number, **watch}
        self.scheduler = GenerationScheduler(
            self.text, meter=meter, most_in_flight=most_in_flight, **common
        )
        watched = WatchedSlots(self.slots, meter, marks, number, self.clock)
        self.generation = GenerationRunner(
            watched, GenerationSettings(), clock=self.clock, on_broken=self.stuck.append
        )
        self.scheduler.begin(self.generation)
        self.runner = ModelRunner(
            None, self.scheduler, may_run_here=False, switch=FakeSwitch, **common
        )

    def clock(self) -> float:
        return time.monotonic() if self.now_s is None else self.now_s

    async def read(self) -> None:
        """Wait until all calls have been read."""
        calls = self.scheduler._live
        await until(lambda: all(call.answer is not None for call in calls.values()))

    def ask(self, *, is_parted: bool = False, **fields: Any) -> Asked:
        """Ask; `is_bulk` is the request's own, as `deadline_s` and `sequence` are."""
        return Asked(self, is_parted=is_parted, **fields)


class Asked:
    """One request, with what came of it."""

    def __init__(
        self,
        desk: Desk,
        *,
        is_parted: bool,
        sequence: SequenceMark | None = None,
        is_bulk: bool = False,
        **fields: Any,
    ) -> None:
        self.desk = desk
        self.parts: list[list[dict[str, Any]]] = []
        self.end: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.holds = False
        data = join_elements([json.dumps(fields).encode()])
        self.request = PendingRequest(
            (Tensor("generation", BYTES, (1,), data),),
            (),
            lambda _, result: self.end.set_result(result),
            arrived_s=desk.clock(),
            sequence=sequence,
            is_bulk=is_bulk,
            on_part=self._part if is_parted else None,
        )
        desk.runner.submit(self.request)

    def _part(self, request: PendingRequest, outputs: Sequence[Tensor]) -> None:
        self.parts.append(pieces_of(outputs))
        request.is_held = self.holds

    async def begun(self) -> None:
        """Wait until a decoding step waits for its gate."""
        assert await asyncio.to_thread(self.desk.slots.is_in_step.wait, LIMIT_S)

    async def error(self) -> CapameshError:
        found = await asyncio.wait_for(self.end, LIMIT_S)
        assert isinstance(found, CapameshError)
        return found

    async def ids(self, choice: int = 0) -> list[int]:
        """Return all tokens of a choice, those of parts first."""
        return [token for each in await self.pieces() if each["c"] == choice for token in each["t"]]

    async def pieces(self) -> list[dict[str, Any]]:
        found = await asyncio.wait_for(self.end, LIMIT_S)
        assert not isinstance(found, CapameshError), found
        return [each for part in (*self.parts, pieces_of(found)) for each in part]


def pieces_of(outputs: Sequence[Tensor]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(split_elements(outputs[0].data, 1)[0])
    return found


def alone(prompt: Sequence[int], most: int, n: int = 1, choice: int = 0) -> list[int]:
    return ids_alone(GenerationRequest(tuple(prompt), most, GREEDY, choices=n), choice)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not is_true():
            await asyncio.sleep(0.001)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.slots.is_open = True
    desk.slots.gate.release(1000)
    desk.text.gate.set()
    desk.runner.close()
    await asyncio.to_thread(desk.scheduler.close)


async def test_whole_answer_has_all_pieces_merged(desk: Desk) -> None:
    asked = desk.ask(prompt=[1, 2, 3], max_tokens=5, n=2)
    first, second = await asked.pieces()
    for choice, each in enumerate((first, second)):
        assert each["t"] == alone([1, 2, 3], 5, 2, choice)
        assert (each["f"], len(each["x"])) == ("length", 5)
    assert (first["s"], second["u"]) == (7, [3, 0, 10])
    assert desk.scheduler.meter.requests == {"ok": 1}
    assert desk.page.marked() == []


async def test_withdrawn_request_frees_its_slot_after_the_step(desk: Desk) -> None:
    desk.slots.is_open = False
    asked = desk.ask(is_parted=True, prompt=[1, 2, 3], max_tokens=50, n=4)
    await until(lambda: bool(asked.parts))
    desk.runner.cancel(asked.request)
    assert desk.scheduler.is_idle
    desk.slots.gate.release()
    await until(lambda: desk.generation.load.free_slots == 4)
    assert (desk.slots.steps <= 1, asked.end.done()) == (True, False)


async def test_refusals_are_told_and_leave_nothing(desk: Desk) -> None:
    assert isinstance(await desk.ask(max_tokens=3).error(), InvalidRequest)
    assert isinstance(await desk.ask(prompt=[99], max_tokens=3).error(), InvalidRequest)
    broken = await desk.ask(prompt=[1], bug=True).error()
    assert isinstance(broken, RunFailed)
    desk.slots.fails = RunFailed("no")
    assert (await desk.ask(prompt=[1, 2], max_tokens=3, n=2).error()).message == "no"
    desk.slots.fails = None
    with pytest.raises(InvalidRequest, match="keeps no sequences"):
        desk.ask(prompt=[1], max_tokens=1, sequence=SequenceMark(1, True, False))
    assert desk.scheduler.is_idle
    assert await desk.ask(prompt=[1, 2], max_tokens=3).ids() == alone([1, 2], 3)


async def test_client_that_has_all_places_gives_one_to_another(tmp_path: Path) -> None:
    desk = Desk(tmp_path, most_in_flight=6)
    desk.slots.is_open = False
    crowd = [
        desk.ask(prompt=[1, 2], max_tokens=50, share="crowd", is_parted=True) for _ in range(6)
    ]
    await until(lambda: bool(crowd[0].parts))
    lone = [desk.ask(prompt=[1, 2], max_tokens=2, share="lone") for _ in range(2)]
    assert [each.end.done() for each in crowd] == [False] * 4 + [True] * 2
    assert isinstance(await crowd[5].error(), Overloaded)
    with pytest.raises(Overloaded, match="6 requests are in flight"):
        desk.ask(prompt=[1, 2], max_tokens=2, share="crowd")
    desk.slots.is_open = True
    desk.slots.gate.release(1000)
    for each in (*lone, *crowd[:4]):
        await each.pieces()
    await asyncio.to_thread(desk.scheduler.close)


async def test_unread_calls_of_one_client_do_not_keep_others_waiting(desk: Desk) -> None:
    desk.text.gate.clear()
    crowd = [desk.ask(prompt=[1, 2] * 500, max_tokens=1, cache_salt="crowd") for _ in range(10)]
    lone = desk.ask(prompt=[1, 2], max_tokens=1, share="lone", cache_salt="crowd")
    assert desk.scheduler.queued == 11
    desk.runner.cancel(crowd[-1].request)
    desk.text.gate.set()
    await lone.pieces()
    for each in crowd[:-1]:
        assert isinstance(await each.error(), CapameshError)  # more tokens than slots have
    read = [len(raw) for raw in desk.text.read_raws]
    assert read.index(min(read)) <= 2
    assert len(read) == 10
    assert desk.scheduler.is_idle


async def test_step_that_hangs_is_blamed_and_a_long_answer_is_not(desk: Desk) -> None:
    desk.now_s = 100.0
    desk.slots.is_open = False
    asked = desk.ask(is_parted=True, prompt=[1, 2], max_tokens=5)
    await until(lambda: desk.generation.run_since_s is not None and bool(asked.parts))
    desk.now_s = 150.0
    desk.slots.gate.release()
    await until(lambda: len(asked.parts) == 2 and desk.generation.run_since_s == 150.0)
    desk.scheduler.expire(210.0)
    assert desk.stuck == []
    for _ in range(2):
        desk.scheduler.expire(210.1)
    assert len(desk.stuck) == 1
    assert desk.page.marked() == [Marked("m", "1", Phase.RUNNING)]
    desk.slots.gate.release(10)


async def test_reader_of_an_answer_that_goes_on_hears_that_it_is_under_way(desk: Desk) -> None:
    desk.slots.is_open = False
    desk.runner._timer_due_s = -math.inf  # nobody but the test looks at what expires
    ids = alone([1, 2, 3], 6)
    gone_on = desk.ask(is_parted=True, prompt=[1, 2, 3], max_tokens=6, so_far=ids[:4])
    await until(lambda: desk.generation.run_since_s is not None)
    new = desk.ask(is_parted=True, prompt=[1, 2], max_tokens=9)
    await desk.read()
    assert (gone_on.parts, new.parts) == ([[]], [])  # as soon as it is read
    for _ in range(2):
        desk.scheduler.expire(desk.clock())
    assert (gone_on.parts, new.parts) == ([[], [], []], [])
    gone_on.holds = True
    desk.scheduler.expire(desk.clock())
    desk.scheduler.expire(desk.clock())
    assert gone_on.parts == [[], [], [], []]
    gone_on.holds = False
    desk.runner.resume(gone_on.request)
    desk.slots.gate.release(30)
    assert await gone_on.ids() == ids[4:]


async def test_bulk_requests_give_a_slot_to_people_and_are_told_of_in_no_wait(desk: Desk) -> None:
    desk.slots.is_open = False
    bulk = [
        desk.ask(is_bulk=True, is_parted=True, prompt=[first, 2], max_tokens=20)
        for first in range(4)
    ]
    await desk.read()
    desk.slots.gate.release(4)  # steps between which their prompts run
    await until(lambda: all(each.parts for each in bulk))
    assert desk.scheduler.load_report(free_bytes=0, device_in_flight=0).latency_us == 0
    person = desk.ask(prompt=[9, 9], max_tokens=3)
    await desk.read()
    desk.slots.gate.release(4)  # of the bulk's answers none is near its end
    assert await person.ids() == alone([9, 9], 3)
    assert not any(each.end.done() for each in bulk)
    assert desk.scheduler.figures()["preemptions"] == 1
    assert desk.scheduler.load_report(free_bytes=0, device_in_flight=0).latency_us > 0
    desk.slots.gate.release(1000)
    for first, each in enumerate(bulk):
        assert await each.ids() == alone([first, 2], 20)


async def test_steps_that_fail_again_and_again_are_said_of_the_model(desk: Desk) -> None:
    desk.slots.fails = RunFailed("the decoder threw")
    for _ in range(2):
        for number in range(FAILED_REQUESTS - 1):
            await desk.ask(prompt=[number, 1], max_tokens=3).error()
    await desk.ask(max_tokens=3).error()  # refused, and not run
    assert desk.scheduler.health.reason == ""
    await desk.ask(prompt=[9, 1], max_tokens=3).error()
    assert desk.scheduler.health.reason.endswith("have failed, the latest: the decoder threw")
    desk.slots.fails = None
    await desk.ask(prompt=[1, 2], max_tokens=1).pieces()
    assert desk.scheduler.health.reason == ""


async def test_request_withdrawn_before_it_was_looked_at_never_begins_and_the_inbox_is_bounded(
    desk: Desk,
) -> None:
    desk.generation._max_inbox = 3
    desk.slots.is_open = False
    first = desk.ask(prompt=[1, 2, 3, 4], max_tokens=6)
    await first.begun()
    gone = desk.ask(prompt=[9] * 30, max_tokens=6)
    await until(lambda: desk.generation._inbox.qsize() == 1)
    desk.runner.cancel(gone.request)
    waiting = [desk.ask(prompt=[1, 2], max_tokens=3) for _ in range(2)]
    ends = [each.end for each in waiting]  # of which threads read one before the other
    await asyncio.wait(ends, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = [each for each in waiting if each.end.done()]
    assert isinstance(await refused.error(), Overloaded)
    desk.slots.is_open = True
    desk.slots.gate.release(1000)
    assert await first.ids() == alone([1, 2, 3, 4], 6)
    (other,) = [each for each in waiting if each is not refused]
    assert await other.ids() == alone([1, 2], 3)
    assert desk.slots.extended == [4, 2]


async def test_bug_ends_all_requests_and_those_that_come_while_the_thread_ends(desk: Desk) -> None:
    desk.slots.is_open = False
    first = desk.ask(prompt=[1, 2], max_tokens=6)
    await first.begun()
    desk.slots.fails = ZeroDivisionError("odd")
    late = desk.ask(prompt=[1, 2], max_tokens=6)
    await until(lambda: desk.generation._inbox.qsize() == 1)
    desk.slots.gate.release(1)
    assert isinstance(await first.error(), RunFailed)
    assert isinstance(await late.error(), ModelUnavailable)
    assert len(desk.stuck) == 1
    assert "odd" in desk.stuck[0]
    assert "odd" in (await desk.ask(prompt=[1, 2], max_tokens=6).error()).message


async def test_closing_ends_all_requests_with_the_reason(desk: Desk) -> None:
    desk.slots.is_open = False
    asked = [desk.ask(prompt=[1, 2], max_tokens=6) for _ in range(2)]
    await asked[0].begun()
    closing = asyncio.ensure_future(asyncio.to_thread(desk.scheduler.close))
    await until(lambda: bool(desk.generation._closed))
    desk.slots.gate.release(100)
    await closing
    for error in [await each.error() for each in asked]:
        assert isinstance(error, ModelUnavailable)
        assert "unloaded" in error.message


# what an answer says


def answer_of(readers: dict[int, ToolCallReader], echo: str = "", n: int = 1) -> GenerationAnswer:
    request = GenerationRequest((1, 2), 9, choices=n)
    call = ReadCall((request,), LetterText, None, echo, 7, "", readers)
    return GenerationAnswer(call, lambda token: f"<{token}>")


def test_parts_that_were_not_sent_are_merged_by_choice_behind_what_is_echoed() -> None:
    answer = answer_of({}, "é", 2)
    answer.take(1, TokenPart((5,), "a"))
    answer.take(1, TokenPart((7, 8), "c"))
    echoed = [{"c": 0, "t": [], "x": "é", "s": 7}, {"c": 1, "t": [], "x": "é"}]
    assert pieces_of([answer.sent()]) == [*echoed, {"c": 1, "t": [5, 7, 8], "x": "ac"}]
    assert not answer.has_unsent
    unlikely = TokenLogprob(6, -0.5, ((6, -0.5), (5, -math.inf)))
    answer.take(0, TokenPart((6,), "b", logprobs=(unlikely,)))
    (piece,) = pieces_of([answer.sent()])
    assert piece.pop("p") == [[[6, "<6>", -0.5], [6, "<6>", -0.5], [5, "<5>", -9999.0]]]
    assert piece == {"c": 0, "t": [6], "x": "b"}
    answer.take(0, TokenPart((), "", finish="stop", usage=Usage(2, 1, 1)))
    answer.take(1, TokenPart((), "e", finish="length", usage=Usage(2, 0, 3)))
    assert answer.is_over
    assert pieces_of([answer.sent()])[-1]["u"] == [2, 1, 4]


def test_calls_of_tools_are_merged_by_call_and_end_the_choice() -> None:
    answer = answer_of({0: ToolCallReader(HERMES, ("f", "g"))})
    said = ("So <tool", '_call>{"name": "f", "arguments": {"a"', ": 1}", "} <")
    for token, text in enumerate(said):
        answer.take(0, TokenPart((token,), text))
    (piece,) = pieces_of([answer.sent()])
    (call,) = piece.pop("k")
    assert call.pop("id").startswith("call_")
    assert call == {"i": 0, "name": "f", "arguments": '{"a": 1}'}
    assert piece == {"c": 0, "t": [0, 1, 2, 3], "x": "So ", "s": 7}
    answer.take(0, TokenPart((4,), 'tool_call>{"name": "g", "arguments": '))
    answer.take(0, TokenPart((5,), "{}}", finish="stop", usage=Usage(2, 0, 6)))
    (piece,) = pieces_of([answer.sent()])
    (call,) = piece["k"]
    assert (call["i"], call["name"], call["arguments"]) == (1, "g", "{}")
    assert (piece["f"], piece["t"]) == ("tool_calls", [4, 5])
