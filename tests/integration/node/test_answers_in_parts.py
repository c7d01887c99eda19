"""A worker that answers in parts, a model in a loop: what a reader gets, and what ends when it reads or waits no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from engine_models import model_of
from link_sockets import within

from capamesh.protocol.errors import CapameshError, DeadlineExceeded
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall, decode_answer, encode_call
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.handlers import PartsHandler
from capamesh.protocol.links.link import Link
from capamesh.protocol.tensors import DEFAULT_LIMITS, Tensor

if TYPE_CHECKING:
    from conftest import Town

STEPS = 100
WINDOW = LinkLimits(part_window_bytes=8000)
"""Each part takes some 600 bytes of it."""


@pytest.fixture
async def doubling(town: Town) -> Town:
    """Return a town with a model whose answer is its input doubled, and that doubled, `STEPS` times."""
    model = model_of("double (float[N, 2] x) => (float[N, 2] y) { y = Add(x, x) }")
    town.put("double", model, f'[loop]\nfeedback = {{x = "y"}}\nmax_steps = {STEPS}\n')
    await town.until_ready("double")
    return town


class Reader(PartsHandler):
    """Keeps the outputs of every part as numbers."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.stream = 0
        self.is_releasing = True
        self.parts: list[Any] = []
        self.end: object = None
        self._news = asyncio.Event()

    def part_answered(self, part: Answer) -> None:
        self.parts.append(value_of(part))
        if self.is_releasing:
            self.link.release(self.stream, part)
        self._news.set()

    def answered(self, answer: Answer) -> None:
        self.end = value_of(answer)
        self._news.set()

    def failed(self, error: CapameshError) -> None:
        self.end = error
        self._news.set()

    async def until(self, parts: int, *, is_over: bool = False) -> None:
        async def come() -> None:
            while len(self.parts) < parts or (is_over and self.end is None):
                self._news.clear()
                await self._news.wait()

        await within(come())


def value_of(answer: Answer) -> float:
    (output,) = decode_answer(answer.meta, answer.body, DEFAULT_LIMITS).outputs
    return float(output.to_numpy()[0, 0])


class SlowReader(Reader):
    """Keeps what it was given, until it is told to go on."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.held: list[Answer] = []
        self.is_releasing = False

    def part_answered(self, part: Answer) -> None:
        self.held.append(part)
        super().part_answered(part)

    def go_on(self) -> None:
        held, self.held = self.held, []
        for part in held:
            self.link.release(self.stream, part)


def ask(
    reader: Reader, *, rows: int = 1, takes_parts: bool = True, budget_ms: int = 60_000
) -> None:
    x = Tensor.from_numpy("x", np.ones((rows, 2), np.float32))
    call = InferCall(ModelName("double"), ModelVersion(""), (x,), takes_parts=takes_parts)
    reader.stream = reader.link.ask(*encode_call(call, budget_ms), reader)


async def test_reader_that_stalls_stops_itself_alone_and_goes_on_where_it_was(
    doubling: Town,
) -> None:
    link, scheduler = await doubling.link(WINDOW), doubling.hosted("double").runner.scheduler
    slow, quick, whole = SlowReader(link), Reader(link), Reader(link)
    ask(slow)
    ask(quick)
    ask(whole, takes_parts=False)
    await quick.until(STEPS - 1, is_over=True)
    await whole.until(0, is_over=True)
    assert (quick.parts, quick.end) == ([2.0**step for step in range(1, STEPS)], 2.0**STEPS)
    assert (whole.parts, whole.end) == ([], 2.0**STEPS)
    assert 10 <= len(slow.held) < 20
    assert (scheduler.in_flight, scheduler.queued) == (1, 0)
    while slow.end is None:
        slow.go_on()
        count = len(slow.parts)
        await slow.until(min(count + 1, STEPS - 1), is_over=count >= STEPS - 1)
    assert (slow.parts, slow.end) == (quick.parts, quick.end)


async def test_large_parts_flow_by_the_credit_of_their_reader(doubling: Town) -> None:
    reader = Reader(await doubling.link(LinkLimits(initial_credit_bytes=2000)))
    ask(reader, rows=2000)
    await reader.until(STEPS - 1, is_over=True)
    assert (len(reader.parts), reader.end) == (STEPS - 1, 2.0**STEPS)


@pytest.mark.parametrize("kind", [SlowReader, Reader])
async def test_reader_that_withdraws_frees_the_node_also_while_it_is_held(
    doubling: Town, kind: type[Reader]
) -> None:
    reader = kind(await doubling.link(WINDOW))
    ask(reader)
    await reader.until(10)
    reader.link.withdraw(reader.stream)
    await within(doubling.hosted("double").runner.wait_idle())
    assert doubling.service.is_quiet


async def test_deadline_after_the_first_part_is_the_end_of_the_answer(doubling: Town) -> None:
    reader = SlowReader(await doubling.link(WINDOW))
    ask(reader, budget_ms=500)
    await reader.until(1, is_over=True)
    assert isinstance(reader.end, DeadlineExceeded)
    assert len(reader.parts) < 20
