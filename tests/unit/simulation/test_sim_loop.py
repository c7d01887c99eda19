"""TCP in memory against that of the system: the same conversation on both loops gives the same trace. And time, order and machines of the loop."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from capamesh.simulation import sim_loop
from capamesh.simulation.memory_tcp import Machine
from capamesh.simulation.sim_loop import SimLoop, Stalled

HOST = "127.0.0.1"
Trace = list[str]


class End(asyncio.Protocol):
    """One end of a connection, which writes down what happens to it."""

    def __init__(self, name: str, trace: Trace, *, keeps_half: bool = False) -> None:
        self.name = name
        self.trace = trace
        self.keeps_half = keeps_half
        self.read = bytearray()
        self.news = asyncio.Event()

    def _tell(self, what: str) -> None:
        self.trace.append(f"{self.name} {what}")
        self.news.set()

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        self._tell("made")

    def data_received(self, data: bytes) -> None:
        self.read += data
        self.news.set()

    def eof_received(self) -> bool:
        self._tell(f"end after {len(self.read)}")
        return self.keeps_half

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell(f"lost {type(exc).__name__}")

    def pause_writing(self) -> None:
        self._tell("pause")

    def resume_writing(self) -> None:
        self._tell("resume")

    def reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def told(self, what: str) -> None:
        await self.so(lambda: f"{self.name} {what}" in self.trace)

    async def so(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self.news.clear()
            await self.news.wait()


Talk = Callable[[End, End], Coroutine[Any, Any, None]]


async def talk(talk: Talk, *, keeps_half: bool) -> Trace:
    loop = asyncio.get_running_loop()
    trace: Trace = []
    there: asyncio.Future[End] = loop.create_future()

    def accept() -> End:
        there.set_result(End("server", trace, keeps_half=keeps_half))
        return there.result()

    server = await loop.create_server(accept, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    _, client = await loop.create_connection(
        lambda: End("client", trace, keeps_half=keeps_half), HOST, port
    )
    other = await there
    await other.told("made")
    trace[:] = sorted(trace)  # either may be first
    await talk(client, other)
    server.close()
    for end in (client, other):
        if not any(f"{end.name} lost" in each for each in trace):
            end.transport.abort()
        await end.so(lambda end=end: any(f"{end.name} lost" in each for each in trace))  # type: ignore[misc]
    return trace


async def half_close(client: End, server: End) -> None:
    client.transport.write(b"x" * 100)
    client.transport.write_eof()
    await server.told("end after 100")
    server.transport.write(b"y" * 200)
    server.transport.close()
    await client.told("end after 200")
    await server.told("lost NoneType")


async def close(client: End, server: End) -> None:
    client.transport.write(b"x" * 300_000)
    client.transport.close()
    await server.told("end after 300000")


async def reset(client: End, server: End) -> None:
    client.transport.write(b"x")
    await server.so(lambda: server.read == b"x")
    client.reset()
    await server.told("lost ConnectionResetError")


async def close_before_all_is_read(client: End, server: End) -> None:
    server.transport.pause_reading()
    client.transport.write(b"x" * 1000)
    server.transport.write(b"go")
    await client.so(lambda: client.read == b"go")
    server.transport.close()
    await client.told("lost ConnectionResetError")


async def write_to_one_who_has_left(client: End, server: End) -> None:
    client.transport.close()
    await client.told("lost NoneType")
    await server.told("end after 0")
    while "server lost BrokenPipeError" not in server.trace:
        server.transport.write(b"x")
        await asyncio.sleep(0)


async def back_pressure(client: End, server: End) -> None:
    server.transport.pause_reading()
    client.transport.write(b"x" * 20_000_000)
    await client.told("pause")
    server.transport.resume_reading()
    await client.told("resume")
    await server.so(lambda: len(server.read) == 20_000_000)


@pytest.mark.parametrize(
    ("scenario", "keeps_half"),
    [
        (half_close, True),
        *itertools.product((close, reset, close_before_all_is_read, back_pressure), (True, False)),
    ],
)
def test_conversation_goes_as_on_the_systems_sockets(scenario: Talk, keeps_half: bool) -> None:
    traces = []
    for make in (asyncio.SelectorEventLoop, SimLoop, lambda: SimLoop(1), lambda: SimLoop(2)):
        with asyncio.Runner(loop_factory=make) as runner:  # type: ignore[arg-type]
            traces.append(runner.run(talk(scenario, keeps_half=keeps_half)))
    assert all(each == traces[0] for each in traces), traces


def test_writer_to_one_who_has_left_is_told_as_by_the_system() -> None:
    traces = []
    for make in (asyncio.SelectorEventLoop, SimLoop):
        with asyncio.Runner(loop_factory=make) as runner:
            traces.append(runner.run(talk(write_to_one_who_has_left, keeps_half=True)))
    assert traces[0] == traces[1]


@pytest.mark.parametrize("make", [asyncio.SelectorEventLoop, SimLoop])
def test_port_without_a_listener_refuses(make: Any) -> None:
    async def dial() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match="address already in use"):
            await loop.create_server(asyncio.Protocol, HOST, port)
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(asyncio.Protocol, HOST, port)

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(dial())


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def _alone() -> None:
    """Wait until all other tasks have ended."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)


async def _crowd() -> list[tuple[int, float]]:
    """Return in which order clients at one server have their answers, and when."""
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(_echo, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    ended: list[tuple[int, float]] = []

    async def ask(number: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        for _ in range(3):
            writer.write(b"x")
            await reader.read(1)
        ended.append((number, loop.time()))
        writer.close()

    await asyncio.gather(*(ask(number) for number in range(20)))
    server.close()
    await _alone()
    return ended


def _run(main: Callable[[], Coroutine[Any, Any, Any]], seed: int | None = None) -> Any:
    with asyncio.Runner(loop_factory=lambda: SimLoop(seed, turn_s=1e-6)) as runner:
        return runner.run(main())


def test_seed_draws_the_order_and_draws_it_again() -> None:
    runs = [_run(_crowd, seed) for seed in (None, None, 1, 1, 2, 2)]
    assert runs[0] == runs[1]
    assert runs[2] == runs[3]
    assert runs[4] == runs[5]
    orders = {tuple(number for number, _ in each) for each in runs}
    assert len(orders) == 3


async def _machines() -> list[float]:
    """Return when a client far away has its answers, while the server's machine and wires fail."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    near, far = Machine("10.0.0.1"), Machine("10.0.0.2")
    with far.here():
        await asyncio.start_server(_echo, "0.0.0.0", 80)  # noqa: S104 - in memory
    times: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("10.0.0.2", 80)

        async def ask() -> None:
            writer.write(b"x")
            await reader.readexactly(1)
            times.append(round(loop.time() - sim_loop.START_S, 3))

        await ask()
        loop.freeze(far)
        loop.call_later(3, loop.thaw, far)
        await ask()
        loop.network.cut("10.0.0.2", "10.0.0.1")
        loop.call_later(2, loop.network.heal, "10.0.0.2", "10.0.0.1")
        await ask()
        loop.network.delay_s = lambda source, _: 0.25 if source == "10.0.0.1" else 0.5
        await ask()
        loop.kill(far)
        with pytest.raises(ConnectionResetError):
            await ask()
        times.append(round(loop.time() - sim_loop.START_S, 3))
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("10.0.0.2", 80)

    with near.here():
        await asyncio.create_task(client())
    await _alone()
    return times


def test_machines_freeze_die_and_are_cut_off() -> None:
    assert _run(_machines) == [0.0, 3.0, 5.0, 5.75, 6.25]


def test_what_waits_for_ever_is_told_with_its_place_and_a_spin_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    monkeypatch.setattr(sim_loop, "MOST_TURNS", 1000)
    with pytest.raises(Stalled, match=r"everything waits for ever:\n.*test_sim_loop.py"):
        _run(wait)
    with pytest.raises(Stalled, match="1000 turns"):
        _run(spin)


def test_executor_runs_in_the_loops_time() -> None:
    async def work() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        loop.cost_s = lambda _: 5.0
        began_s = loop.time()
        with pytest.raises(RuntimeError, match="no running event loop"):
            await asyncio.to_thread(asyncio.get_running_loop)
        found = await asyncio.to_thread(int, "7")
        return found, round(loop.time() - began_s, 3)

    assert _run(work) == (7, 10.0)
