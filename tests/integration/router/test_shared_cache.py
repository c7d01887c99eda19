"""Kept answers in a store that two routers share: a real one, in good and in bad times, and ones that lie."""

from __future__ import annotations

import asyncio
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from fleet_fakes import Fleet, NullLog, call, echo
from free_ports import free_port
from patience import until
from raw_http import GUARD_S

from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.cache import valkey
from capamesh.router.cache.breaker import LATE_IN_A_ROW
from capamesh.router.cache.shared import Seal, SharedAnswers
from capamesh.router.cache.store_address import StoreAddress, address_of
from capamesh.router.cache.valkey import MOST_PENDING, ValkeyStore
from capamesh.router.requests.call import Outcome, RoutingOptions
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules

START_S = 60.0
PASSWORD = "s e:c/ret"  # noqa: S105 - a test's


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"valkey://:s%20e:c%2Fret@127.0.0.1:{port}/1"


@contextmanager
def running(folder: Path, port: int = 0) -> Iterator[Server]:
    """Run a server that keeps nothing on disk and asks for a password; skip the test where there is none."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no valkey-server or redis-server: apt-get install valkey-server")
    port = port or free_port("127.0.0.1")
    settings = {"port": str(port), "bind": "127.0.0.1", "save": "", "dir": str(folder)}
    settings["requirepass"] = PASSWORD
    argv = [program, *(word for name, value in settings.items() for word in (f"--{name}", value))]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(argv, stdout=quiet, stderr=quiet) as process:
        try:
            _wait_listening(process, port)
            yield Server(process, port)
        finally:
            process.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path) as server:
        yield server


def _wait_listening(process: subprocess.Popen[bytes], port: int) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)
    raise AssertionError(f"the server does not listen; exit status {process.poll()}")


RULES = RoutingRules(ModelRules(cache=CacheRule(60.0)))
NAME, OTHER = b"name", b"other"
BUDGET_S = valkey.BUDGET_S
SEAL = Seal(b"s" * 32, "net")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests wait for a store that has to wait for a core, which takes longer than the few milliseconds of the product."""
    monkeypatch.setattr(valkey, "BUDGET_S", GUARD_S)


@contextmanager
def impatient() -> Iterator[None]:
    """Let requests wait as long as they do, for a store that is late for sure."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(valkey, "BUDGET_S", BUDGET_S)
        yield


def store_at(address: StoreAddress, log: NullLog | None = None) -> ValkeyStore:
    return ValkeyStore(
        address,
        log or NullLog(),  # type: ignore[arg-type]
        clock=asyncio.get_running_loop().time,
        rng=random.Random(0),
    )


@asynccontextmanager
async def kept_running(store: ValkeyStore) -> AsyncIterator[ValkeyStore]:
    task = asyncio.create_task(store.run())
    try:
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ValkeyStore]:
    async with kept_running(store_at(address_of(url))) as store:
        await until(lambda: store.is_reached)
        yield store


@pytest.fixture
async def store(server: Server) -> AsyncIterator[ValkeyStore]:
    async with connected(server.url) as store:
        yield store


@pytest.fixture
async def other(server: Server) -> AsyncIterator[ValkeyStore]:
    """The store of another router."""
    async with connected(server.url) as store:
        yield store


async def got(store: ValkeyStore, name: bytes = NAME) -> bytes | None:
    found: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    assert store.get(name, found.set_result)
    assert not found.done()
    return await asyncio.wait_for(found, GUARD_S)


def sharing(store: ValkeyStore, seal: Seal = SEAL) -> Fleet:
    """Return a router's core and a node, of which answers are shared."""
    fleet = Fleet([echo], rules=RULES)
    fleet.routing.pipeline.cache.shared = SharedAnswers(
        store, seal, limits=DEFAULT_LIMITS, wall_clock=time.time
    )
    return fleet


async def ask(fleet: Fleet, tenant: str = "") -> Outcome:
    return await fleet.infer(call(), RoutingOptions(tenant=tenant), fleet.clock() + 30.0)


def counts(fleet: Fleet) -> dict[str, int]:
    return {result: count for (_, result), count in fleet.routing.pipeline.cache.counts()}


async def test_router_gives_what_another_has_kept(
    server: Server, store: ValkeyStore, other: ValkeyStore
) -> None:
    first, second = sharing(store), sharing(other)
    await ask(first)
    await until(lambda: store.is_reached)
    found = await ask(second)
    assert found.entry is not None
    assert (found.peer, second.asked) == ("A", [0])
    assert bytes(found.answer.outputs[0].data) == bytes(call().inputs[0].data)
    # from now on it has its own
    server.process.kill()
    assert (await ask(second)).entry is not None
    assert counts(second) == {"miss": 1, "shared": 1, "hit": 1}
    # another tenant's are another's
    assert (await ask(second, "lab")).entry is None


async def test_router_with_another_secret_gives_none_of_it(
    store: ValkeyStore, other: ValkeyStore
) -> None:
    first, second = sharing(store), sharing(other, Seal(b"x" * 32, "net"))
    await ask(first)
    await until(lambda: store.is_reached)
    assert (await ask(second)).entry is None
    assert second.asked == [1]


async def test_value_that_another_writer_has_put_there_is_no_answer(
    store: ValkeyStore, other: ValkeyStore
) -> None:
    first, second = sharing(store), sharing(other)
    await ask(first, "lab")
    (key,) = first.routing.pipeline.cache.store._entries
    value = await got(store, SEAL.name_of(key))
    assert value is not None
    # the answer for the one tenant is put where that for another is looked for
    seen: list[bytes] = []
    shared = second.routing.pipeline.cache.shared
    assert shared is not None
    real_get = other.get

    def get(name: bytes, then: Callable[[bytes | None], None]) -> bool:
        seen.append(name)
        store.put(name, value, 60.0)
        return real_get(name, then)

    shared._store = SimpleNamespace(get=get, put=lambda *_: None)
    assert (await ask(second)).entry is None
    await until(lambda: store.is_reached)
    assert await got(store, seen[0]) == value
    second.routing.pipeline.cache.store.clear()
    assert (await ask(second)).entry is None
    assert shared.refused >= 1  # the first look-up may have been before the other's write
    assert second.asked == [2]


async def test_equal_requests_wait_for_one_look_up(store: ValkeyStore, other: ValkeyStore) -> None:
    first, second = sharing(store), sharing(other)
    await ask(first)
    await until(lambda: store.is_reached)
    found = await asyncio.gather(*(ask(second) for _ in range(20)))
    assert all(each.entry is not None for each in found)
    assert (other.found, second.asked) == (1, [0])


async def test_values_end_with_their_time(store: ValkeyStore) -> None:
    store.put(NAME, b"value", 60.0)
    store.put(OTHER, b"short", 0.001)
    assert await got(store) == b"value"

    async def is_gone() -> bool:
        return await got(store, OTHER) is None

    await until(is_gone)


async def test_server_that_is_killed_is_gone_on_without_and_found_again(
    tmp_path: Path, server: Server, store: ValkeyStore
) -> None:
    fleet = sharing(store)
    server.process.kill()
    await until(lambda: not store.is_reached)
    assert (await ask(fleet)).entry is None
    assert store.skipped == 1
    server.process.wait()
    with running(tmp_path, server.port):
        await until(lambda: store.is_reached)
        store.put(NAME, b"value", 60.0)
        assert await got(store) == b"value"


async def test_server_that_is_killed_while_it_is_asked_costs_no_answer(
    server: Server, store: ValkeyStore
) -> None:
    fleet = sharing(store)
    os.kill(server.process.pid, signal.SIGSTOP)
    asked = [asyncio.create_task(ask(fleet, str(at))) for at in range(9)]
    await asyncio.sleep(0)
    server.process.kill()
    assert [(await one).entry for one in asked] == [None] * 9
    assert fleet.asked == [9]


async def test_server_that_is_frozen_costs_a_few_requests_some_milliseconds(
    server: Server, store: ValkeyStore
) -> None:
    fleet = sharing(store)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with impatient():
            for at in range(LATE_IN_A_ROW):
                assert await got(store, bytes((at,))) is None
            assert store.late == LATE_IN_A_ROW
            # a pause of a second that does not end, however long the rest takes here
            paused_s = store._breaker._until_s - 0.5
            store._clock = lambda: paused_s
            for at in range(20):
                assert (await ask(fleet, str(at))).entry is None
            assert (store.skipped, store.late) == (20, LATE_IN_A_ROW)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    # what comes late is nobody's, and no reply is taken for another's
    await until(lambda: store.is_reached)
    store._breaker.was_in_time()
    store.put(NAME, b"value", 60.0)
    assert await got(store) == b"value"
    assert (store.late, store.found) == (LATE_IN_A_ROW, 1)


async def test_server_that_is_frozen_for_long_is_left_and_found_again(
    server: Server, store: ValkeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capamesh.router.cache.valkey.SILENT_S", 0.05)
    monkeypatch.setattr("capamesh.router.cache.valkey.CONNECT_S", 0.05)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with impatient():
            assert await got(store) is None
        await until(lambda: store._connection is None)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    await until(lambda: store.is_reached)
    assert await got(store) is None


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_refusal_of_the_server_is_told_and_nothing_is_asked(
    server: Server, password: str
) -> None:
    address, log = address_of(server.url), NullLog()
    wrong = StoreAddress(address.host, address.port, False, "", password, 0)
    async with kept_running(store_at(wrong, log)) as store:
        await until(lambda: "shared_cache_away" in log.events)
        assert not store.get(NAME, lambda _: None)
        assert store.skipped == 1


class Liar(asyncio.Protocol):
    """A server that lets everybody in, and answers each command after that with what the test says."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._is_in = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._is_in:
            self._is_in = True
            self._transport.write(b"+OK\r\n+PONG\r\n")
        else:
            self._transport.write(self._answer)


@asynccontextmanager
async def lying(answer: bytes) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Liar(answer), "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


LIES = (
    *(
        b"$5\r\nhello\r\n",
        b"$-1\r\n",
        b"-ERR no\r\n",
        b"$99999999999\r\n",
        b"$x\r\n",
        b"*3\r\n:1\r\n",
        b"",
    ),
    *(b"\0" * 300_000, b"+OK\r\n+OK\r\n+OK\r\n$5\r\nhello\r\n", b"$60000\r\n" + b"x" * 10),
    *(b"$%d\r\n" % size + b"x" * size + b"\r\n" for size in (65536, 65537)),
)


@pytest.mark.parametrize("answer", LIES, ids=lambda answer: repr(answer[:20]))
async def test_liar_makes_no_answer_and_no_request_wait(answer: bytes) -> None:
    async with lying(answer) as url, connected(url) as store:
        fleet = sharing(store)
        with impatient():  # one of them says nothing
            for at in range(3):
                assert (await ask(fleet, str(at))).entry is None
        assert fleet.asked == [3]


async def test_commands_that_wait_have_a_bound() -> None:
    async with lying(b"") as url, connected(url) as store:
        for _ in range(MOST_PENDING + 50):
            store.put(NAME, b"value", 1.0)
        assert len(store._pending) == MOST_PENDING
        assert not store.get(NAME, lambda _: None)


async def test_bytes_that_wait_to_be_sent_have_a_bound(server: Server, store: ValkeyStore) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)
    for _ in range(MOST_PENDING):
        store.put(NAME, bytes(60_000), 1.0)
    connection = store._connection
    assert connection is not None
    assert connection.transport.get_write_buffer_size() < 5 * 2**20


async def test_loop_that_was_busy_does_not_take_the_store_for_late(store: ValkeyStore) -> None:
    store.put(NAME, b"value", 60.0)
    await until(lambda: store.is_reached)
    found: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    assert store._connection is not None
    socket = store._connection.transport.get_extra_info("socket")
    with impatient():
        assert store.get(NAME, found.set_result)
    # the reply comes while the loop does something else, for longer than a request waits
    assert select.select([socket], [], [], GUARD_S)[0]
    time.sleep(4 * BUDGET_S)  # noqa: ASYNC251
    assert await found == b"value"
    assert store.late == 0
