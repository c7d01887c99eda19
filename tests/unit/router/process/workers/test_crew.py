"""All workers together: their state, their counts, their pages, and how they are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog

from capamesh.protocol.system import System
from capamesh.router.process.workers import crew as crews
from capamesh.router.process.workers import gathering
from capamesh.router.process.workers.crew import Crew
from capamesh.router.process.workers.gathering import Gathering
from capamesh.router.process.workers.messages import (
    Ask,
    Gather,
    Held,
    Others,
    Part,
    Start,
    ToMain,
    ToWorker,
    Whole,
    settings_of,
)
from capamesh.router.settings import RouterSettings


class FakeWorker:
    """A worker whose process is none: it is up when the test says so."""

    made: list[FakeWorker]

    def __init__(self, number: int, opening: Callable[[], Start], *_: Any, **on: Any) -> None:
        self.number = self.pid = number
        self.settings = settings_of(opening().settings)
        self._on = on
        self.status: dict[str, Any] = {}
        self.counts = b""
        self.history: dict[str, Any] = {}
        self.figures: Any = ([], [])
        self.link_address = f"h:{self.settings.link_port}"
        self.is_up = True
        self.serves = asyncio.Event()
        self.asked: list[Any] = []
        self.has_ended = False
        FakeWorker.made.append(self)

    is_serving = property(lambda self: bool(self.status))

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def finish(self) -> None:
        self.has_ended = True

    def ask(self, message: ToWorker) -> bool:
        self.asked.append(message)
        return True

    def forget(self) -> None:
        self._on["on_down"](self)
        self.counts, self.history, self.is_up = b"", {}, False

    def says(self, message: ToMain) -> None:
        self._on["on_message"](self, message)


@pytest.fixture
async def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    """Return a crew of two fake workers."""
    FakeWorker.made = []
    monkeypatch.setattr(crews, "WorkerHandle", FakeWorker)
    log: Any = NullLog()
    made = Crew(
        RouterSettings(Path(), workers=2, link_port=4100, max_connections=10),
        [3],
        [4],
        memory_bytes=800,
        own_counts=lambda: family("own_total", 1),
        on_message=lambda _, __: None,
        on_change=lambda: None,
        system=System(steady_s=lambda: 0.0),
        log=log,
    )
    made.start()
    return made


def family(name: str, value: float) -> bytes:
    return f"# HELP {name} Words.\n# TYPE {name} counter\n{name} {float(value)}\n".encode()


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def test_router_is_as_well_as_the_best_of_its_workers(crew: Crew) -> None:
    one, other = FakeWorker.made
    assert crew.now() == ("starting", "its workers are not up yet")
    one.status = {"state": "waiting", "reason": "no node has been heard of"}
    assert crew.now() == ("waiting", "no node has been heard of")
    other.status = {"state": "ready", "reason": ""}
    assert crew.now() == ("ready", "")


async def test_metrics_are_those_of_all_and_of_those_that_are_gone(crew: Crew) -> None:
    one, other = FakeWorker.made

    async def metrics() -> list[str]:
        """Return the samples as the first worker is told them, where the second has 3 requests."""
        one.says(Gather(7, "metrics", family("x_total", 2)))
        await turns()
        for worker in FakeWorker.made[1:]:
            (*_, ask) = [each for each in worker.asked if isinstance(each, Ask)]
            worker.counts = family("x_total", 3)
            worker.says(Part(ask.number, b""))
        await turns()
        whole = one.asked[-1]
        assert isinstance(whole, Whole)
        assert whole.number == 7
        return [line for line in whole.body.decode().splitlines() if not line.startswith("#")]

    assert await metrics() == ["x_total 5.0", "own_total 1.0"]
    other.forget()
    FakeWorker.made.remove(other)
    assert await metrics() == ["x_total 5.0", "own_total 1.0"]


async def test_operators_word_is_answered_when_the_others_have_taken_it(crew: Crew) -> None:
    one, other = FakeWorker.made
    one.says(Held(9, "p", "", "", "forced_open"))
    await turns()
    (held,) = other.asked
    assert isinstance(held, Held)
    assert (held.peer, held.state) == ("p", "forced_open")
    assert one.asked == []
    other.says(Part(held.number, b""))
    await turns()
    assert one.asked == [Whole(9, b"")]


async def test_replaced_workers_end_when_their_successors_serve(crew: Crew) -> None:
    old = list(FakeWorker.made)
    replacing = asyncio.create_task(crew.replace())
    await turns()
    first = FakeWorker.made[2]
    assert (first.number, first.settings.link_port) == (1, 4102)
    assert [worker.has_ended for worker in old] == [False, False]
    first.serves.set()
    await turns()
    second = FakeWorker.made[3]
    assert (second.number, second.settings.link_port) == (2, 4100)
    assert [worker.has_ended for worker in old] == [True, False]
    second.serves.set()
    await replacing
    assert [worker.has_ended for worker in old] == [True, True]
    assert crew.link_addresses == ("h:4102", "h:4100")


async def test_old_worker_stays_where_the_new_one_does_not_come_up(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "REPLACED_S", 0.0)
    old = list(FakeWorker.made)
    await crew.replace()
    assert [worker.has_ended for worker in FakeWorker.made] == [False, False, True, True]
    assert crew.link_addresses == ("h:4100", "h:4101")
    assert [worker.is_up for worker in old] == [True, True]


async def test_each_is_told_the_figures_of_the_others_and_the_traffic_of_all(crew: Crew) -> None:
    one, other = FakeWorker.made
    one.figures = ([("A", "x", 1, 2, 3)], [("m", "1", 1)])
    other.figures = ([("A", "x", 4, 5, 6)], [])
    crew.share({"m": {"requests_per_s": 7.0}})
    assert one.asked == [Others([("A", "x", 4, 5, 6)], [], {"m": {"requests_per_s": 7.0}})]
    assert other.asked == [
        Others([("A", "x", 1, 2, 3)], [("m", "1", 1)], {"m": {"requests_per_s": 7.0}})
    ]


class Worker:
    """A worker that is asked."""

    def __init__(self, *, is_there: bool = True) -> None:
        self.is_there = is_there
        self.asked: list[Ask] = []

    def ask(self, message: Ask) -> bool:
        self.asked.append(message)
        return self.is_there


async def begun(round_of: Gathering, *workers: Worker) -> asyncio.Task[dict[Any, bytes]]:
    asked: Any = workers
    task = asyncio.create_task(round_of.ask(asked, lambda number: Ask(number, "nodes")))
    await asyncio.sleep(0)
    return task


async def test_worker_that_is_gone_or_cannot_be_asked_is_not_waited_for() -> None:
    found, one, gone, never = Gathering(), Worker(), Worker(), Worker(is_there=False)
    task = await begun(found, one, gone, never)
    sources: list[Any] = [one, gone]
    found.lost(sources[1])
    found.answered(sources[0], Part(one.asked[0].number, b"x"))
    await turns()  # of the loop, far less than the deadline
    assert task.done()
    assert task.result() == {one: b"x"}
    assert await (await begun(found, never)) == {}


async def test_deadline_ends_the_wait_and_late_answers_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "DEADLINE_S", 0.0)
    found, one = Gathering(), Worker()
    task = await begun(found, one)
    assert await task == {}
    source: Any = one
    found.answered(source, Part(one.asked[0].number, b"late"))
    monkeypatch.setattr(gathering, "DEADLINE_S", 60.0)
    task = await begun(found, one)
    found.answered(source, Part(one.asked[0].number, b"old"))
    assert not task.done()
    found.answered(source, Part(one.asked[1].number, b"new"))
    assert await task == {one: b"new"}
