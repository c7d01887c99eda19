"""What a worker does at the word of its main process, over a channel as both have it. IO: a socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from fleet_fakes import NullLog

from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
from capamesh.protocol.ids import PeerId
from capamesh.protocol.tensors import Limits
from capamesh.router.fleet.overrides import Hold
from capamesh.router.http.elsewhere import METRICS
from capamesh.router.page.history import Totals
from capamesh.router.process.workers import worker as worker_module
from capamesh.router.process.workers.histories import totals_values
from capamesh.router.process.workers.messages import (
    Ask,
    Counts,
    Current,
    Farewell,
    Heard,
    Held,
    Known,
    MeshState,
    Part,
    Reload,
    Revocations,
    ToMain,
    ToWorker,
    Up,
    from_wire,
    to_wire,
)
from capamesh.router.process.workers.worker import WorkerSeat
from capamesh.router.resilience.health import CircuitState
from capamesh.router.supervision import Supervisor
from capamesh.router.telemetry import Telemetry

TOTALS = Totals({}, {}, 1, 2, 3)


class Ends:
    """A worker's seat, the process that it steers, and the main process at the other end."""

    def __init__(self, main: AsyncioChannel, seat: WorkerSeat) -> None:
        self._main = main
        self.seat = seat
        self.done: list[Any] = []
        self.is_stopped = asyncio.Event()
        log: Any = NullLog()
        parts: Any = SimpleNamespace(
            supervisor=Supervisor(Telemetry(), log, clock=lambda: 0.0),
            members=SimpleNamespace(restore=self.done.append),
            fleet=SimpleNamespace(endpoints=list),
            request_parts=SimpleNamespace(repeated=SimpleNamespace()),
            balancer=SimpleNamespace(),
            settings=SimpleNamespace(limits=Limits()),
            routing=SimpleNamespace(clock=lambda: 0.0),
        )
        seat.serve(parts)
        controls: Any = self
        seat.obey(controls)
        member: Any = SimpleNamespace(identity=SimpleNamespace(peer_id=PeerId("p")))
        seat.make_mesh(
            member,
            on_message=self._heard,
            on_ready=lambda _, addrs: self.done.append(addrs),
            on_revocations=self.done.append,
            on_drains=self.done.append,
            on_down=self.done.append,
        )

    def _heard(self, _: str, envelope: bytes, __: PeerId) -> None:
        if envelope == b"bug":
            raise RuntimeError("a bug")
        self.done.append(envelope)

    # the process that is steered

    def stop(self) -> None:
        self.is_stopped.set()

    def reload(self) -> None:
        self.done.append("reload")

    def take(self, hold: Hold) -> None:
        self.done.append(hold)

    async def part(self, page: str) -> bytes:
        return page.encode()

    def totals(self) -> Totals:
        return TOTALS

    # the main process

    def say(self, *messages: ToWorker) -> None:
        for message in messages:
            assert self._main.send(to_wire(message))

    def say_stop(self) -> None:
        assert self._main.send({"type": "stop"})

    async def answers(self, count: int) -> list[ToWorker | ToMain]:
        """Return so many messages of the worker."""
        found: list[ToWorker | ToMain] = []
        async with asyncio.timeout(60):
            async for raw in self._main.messages():
                found.append(from_wire(raw))
                if len(found) == count:
                    break
        return found

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not is_so():
                await asyncio.sleep(0)

    async def leave(self) -> None:
        await self._main.close()


@pytest.fixture
async def ends(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ends]:
    for each in ("COUNTS_EVERY_S", "FIGURES_EVERY_S"):  # nothing is reported because time passes
        monkeypatch.setattr(worker_module, each, 3600.0)
    ours, theirs = socket.socketpair()
    main, worker = await AsyncioChannel.connect(ours), await AsyncioChannel.connect(theirs)
    log: Any = NullLog()
    made = Ends(main, WorkerSeat(worker, (), (), log))
    running = asyncio.create_task(made.seat.run())
    yield made
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await main.close()
    await worker.close()


async def test_worker_does_what_it_is_told_in_order_and_outlives_a_bug(ends: Ends) -> None:
    assert await ends.answers(1) == [Up()]
    ends.say(
        Known((b"1", b"2")),
        MeshState(("/a",)),
        Heard(b"bug"),
        Heard(b"3"),
        Revocations(b"r"),
        Reload(),
    )
    await ends.until(lambda: len(ends.done) == 5)
    assert ends.done == [(b"1", b"2"), ("/a",), b"3", b"r", "reload"]


async def test_parts_of_pages_and_the_operators_word_are_answered_by_their_number(
    ends: Ends,
) -> None:
    ends.say(Ask(5, "nodes"), Held(6, "p", "", "", "forced_open"))
    assert [each for each in await ends.answers(3) if isinstance(each, Part)] == [
        Part(6, b""),
        Part(5, b"nodes"),
    ]
    (hold,) = ends.done
    assert (hold.peer, hold.state) == ("p", CircuitState.FORCED_OPEN)


async def test_metrics_are_reported_before_their_part_and_at_the_end(ends: Ends) -> None:
    counts = Counts(METRICS.encode(), totals_values(TOTALS))
    ends.say(Ask(5, METRICS))
    assert await ends.answers(3) == [Up(), counts, Part(5, b"")]
    await ends.seat.farewell()
    assert await ends.answers(2) == [counts, Farewell()]


async def test_worker_accepts_nothing_before_it_knows_all_and_nothing_keeps_it_from_stopping(
    ends: Ends,
) -> None:
    settling = asyncio.create_task(ends.seat.settle())
    await ends.answers(1)
    assert not settling.done()
    ends.say(Current())
    await settling
    assert not ends.is_stopped.is_set()


@pytest.mark.parametrize("is_told", [True, False])
async def test_worker_stops_when_it_is_told_to_or_its_main_process_is_gone(
    ends: Ends, *, is_told: bool
) -> None:
    settling = asyncio.create_task(ends.seat.settle())
    await ends.answers(1)
    if is_told:
        ends.say_stop()
    else:
        await ends.leave()
    async with asyncio.timeout(60):
        await ends.is_stopped.wait()
        await settling
