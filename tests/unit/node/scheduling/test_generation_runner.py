from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from generation_fakes import VOCABULARY, FakeSlots, LetterText, ids_alone

from capamesh.node.generation import (
    Constraint,
    GenerationRequest,
    GenerationSettings,
    SamplingParameters,
    TokenPart,
)
from capamesh.node.generation.slots import Logits
from capamesh.node.scheduling import generation_runner
from capamesh.node.scheduling.generation_runner import Generation, GenerationRunner
from capamesh.protocol.errors import (
    ModelUnavailable,
    Overloaded,
    RunFailed,
)

REQUEST = GenerationRequest((1, 2, 3, 4), 6, SamplingParameters(temperature=0.0))
TIMEOUT_S = 30.0


class GatedSlots(FakeSlots):
    """Slots of which a decoding step begins only once it is let."""

    def __init__(self) -> None:
        super().__init__(2)
        self.gate = threading.Semaphore(0)
        self.is_in_step = threading.Event()

    def decode(self, tokens: Sequence[int]) -> Logits:
        self.is_in_step.set()
        assert self.gate.acquire(timeout=TIMEOUT_S)
        return super().decode(tokens)


class Received:
    """The parts of one request, and an event for its end."""

    def __init__(self, choices: int = 1) -> None:
        self.parts: dict[int, list[TokenPart]] = {}
        self._left = choices
        self.end = asyncio.Event()

    def receive(self, choice: int, part: TokenPart) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.parts.setdefault(choice, []).append(part)
        self._left -= part.is_last
        if not self._left:
            self.end.set()

    async def ids(self, choice: int = 0) -> list[int]:
        await asyncio.wait_for(self.end.wait(), TIMEOUT_S)
        return [token for part in self.parts[choice] for token in part.ids]

    async def error(self, choice: int = 0) -> str:
        await asyncio.wait_for(self.end.wait(), TIMEOUT_S)
        last = self.parts[choice][-1].error
        return last.code if last is not None else ""


Make = Callable[[FakeSlots], GenerationRunner]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Return what makes runners, which are closed in the end."""
    runners: list[GenerationRunner] = []

    def made(slots: FakeSlots) -> GenerationRunner:
        runner = GenerationRunner(
            slots, GenerationSettings(), clock=time.monotonic, on_broken=broken.append
        )
        runners.append(runner)
        return runner

    broken: list[str] = []
    yield made
    for each in runners:
        if isinstance(each._slots, GatedSlots):
            each._slots.gate.release(10_000)
        await each.close("the test is over")


def ask(
    runner: GenerationRunner, request: GenerationRequest, **more: object
) -> tuple[Received, Generation]:
    received = Received(request.choices)
    return received, runner.submit(request, received.receive, LetterText, **more)  # type: ignore[arg-type]


async def test_cancelled_request_receives_nothing_more_and_others_go_on(make: Make) -> None:
    slots = GatedSlots()
    runner = make(slots)
    gone, generation = ask(runner, REQUEST)
    stays, _ = ask(runner, dataclasses.replace(REQUEST, prompt=(5, 6, 7)))
    await asyncio.to_thread(slots.is_in_step.wait, TIMEOUT_S)
    runner.cancel(generation)
    runner.cancel(generation)
    slots.gate.release(100)
    assert await stays.ids() == ids_alone(dataclasses.replace(REQUEST, prompt=(5, 6, 7)))
    assert not gone.end.is_set()
    await runner.close("the test is over")
    assert (runner.load.generating, runner.load.free_slots) == (0, 2)


async def test_request_cancelled_before_it_was_looked_at_never_begins(make: Make) -> None:
    slots = GatedSlots()
    runner = make(slots)
    first, _ = ask(runner, REQUEST)
    await asyncio.to_thread(slots.is_in_step.wait, TIMEOUT_S)
    _, generation = ask(runner, dataclasses.replace(REQUEST, prompt=(9,) * 30))
    runner.cancel(generation)
    slots.gate.release(100)
    await first.ids()
    assert slots.extended == [4]


@pytest.mark.pure
async def test_inbox_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_runner, "MAX_INBOX", 3)
    slots = GatedSlots()
    runner = make(slots)
    ask(runner, REQUEST)
    await asyncio.to_thread(slots.is_in_step.wait, TIMEOUT_S)
    received = [ask(runner, REQUEST)[0] for _ in range(3)]
    with pytest.raises(Overloaded, match="3 requests are not looked at yet"):
        ask(runner, REQUEST)
    slots.gate.release(100)
    for each in received:
        assert await each.ids() == ids_alone(REQUEST)


async def test_bug_ends_all_requests_and_is_told() -> None:
    slots = FakeSlots(2)
    broken: list[str] = []
    runner = GenerationRunner(
        slots, GenerationSettings(), clock=time.monotonic, on_broken=broken.append
    )
    slots.fails = ZeroDivisionError("odd")
    received, _ = ask(runner, REQUEST)
    assert await received.error() == RunFailed.code
    assert len(broken) == 1
    assert "odd" in broken[0]
    with pytest.raises(ModelUnavailable, match="odd"):
        ask(runner, REQUEST)
    await runner.close("over")


async def test_request_that_comes_while_the_thread_ends_of_a_bug_is_refused() -> None:
    slots = GatedSlots()
    runner = GenerationRunner(
        slots, GenerationSettings(), clock=time.monotonic, on_broken=lambda _: None
    )
    ask(runner, REQUEST)
    await asyncio.to_thread(slots.is_in_step.wait, TIMEOUT_S)
    slots.fails = ZeroDivisionError("odd")
    late, _ = ask(runner, REQUEST)
    slots.gate.release(1)
    runner._stepping.join(TIMEOUT_S)  # the loop has not heard of it yet
    later, _ = ask(runner, REQUEST)
    assert await later.error() == ModelUnavailable.code
    assert await late.error() == ModelUnavailable.code
    await runner.close("over")


async def test_closing_ends_all_requests_with_the_reason(make: Make) -> None:
    slots = GatedSlots()
    runner = make(slots)
    received, _ = ask(runner, REQUEST)
    waiting, _ = ask(runner, REQUEST)
    await asyncio.to_thread(slots.is_in_step.wait, TIMEOUT_S)
    closing = asyncio.ensure_future(runner.close("the model was unloaded"))
    await asyncio.sleep(0)
    with pytest.raises(ModelUnavailable, match="unloaded"):
        ask(runner, REQUEST)
    slots.gate.release(100)
    await closing
    assert await received.error() == ModelUnavailable.code
    assert await waiting.error() == ModelUnavailable.code


class EvenTokens(Constraint):
    """A grammar of even tokens, complete after four, which remembers where its masks were made."""

    def __init__(self, threads: set[str]) -> None:
        self._threads = threads
        self._count = 0
        self._mask: npt.NDArray[np.bool_] | None = None

    def prepare(self) -> None:
        self._threads.add(threading.current_thread().name.partition("_")[0])
        self._mask = np.arange(VOCABULARY) % 2 == 0

    def mask(self) -> npt.NDArray[np.bool_]:
        assert self._mask is not None
        return self._mask

    def accept(self, token: int) -> None:
        self._mask = None
        self._count += 1

    @property
    def is_complete(self) -> bool:
        return self._count == 4


async def test_masks_of_grammars_are_made_in_another_thread(make: Make) -> None:
    runner = make(FakeSlots(2))
    threads: set[str] = set()
    received, _ = ask(runner, REQUEST, new_constraint=lambda: EvenTokens(threads))
    ids = await received.ids()
    assert len(ids) == 4
    assert all(token % 2 == 0 for token in ids)
    assert received.parts[0][-1].finish == "stop"
    assert threads == {"generation-masks"}


async def test_first_token_of_a_repeated_prompt_does_not_wait_for_the_step_behind_it(
    make: Make,
) -> None:
    slots = GatedSlots()
    slots.gate.release(5)
    runner = make(slots)
    first, _ = ask(runner, REQUEST)
    await first.ids()
    again, begun = Received(), asyncio.Event()

    def receive(choice: int, part: TokenPart) -> None:
        again.receive(choice, part)
        begun.set()

    runner.submit(REQUEST, receive, LetterText)
    await asyncio.wait_for(begun.wait(), TIMEOUT_S)
    assert len(again.parts[0]) == 1
    slots.gate.release(5)
    assert await again.ids() == ids_alone(REQUEST)
    assert slots.extended == [4]
