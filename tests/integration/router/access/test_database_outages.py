"""A database of keys that stops, freezes, refuses or is slow, and a router that goes on meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from fleet_members import NullLog
from postgres import Postgres, served
from psycopg import sql

from capamesh.protocol.errors import CapameshError, ConfigError
from capamesh.router.access import key_databases as databases
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KeyStore
from capamesh.router.access.keys import TRUSTED_S, KeyRing, Scope
from capamesh.router.access.quotas import Quotas
from capamesh.router.process import key_watch
from capamesh.router.process.key_watch import KeyWatch

UNKNOWN = "cm_unknown0_" + 32 * "0"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Yield a server for these tests alone, who stop it."""
    with served() as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> Iterator[str]:
    if not server.is_running:
        server.start()
    server.thaw()
    yield server.patient(server.new_database())
    server.thaw()


def own_patience(url: str) -> str:
    """Return a database's URL that leaves it to the router how long connecting may take."""
    return url.partition("?")[0]


class Watched:
    """The watch of one router over a database, which it has loaded, and what it watches."""

    def __init__(self, url: str, wall_clock: Callable[[], float] = time.time) -> None:
        self.ring = KeyRing()
        self.quotas = Quotas()
        self.now_s = 0.0
        self.log = NullLog()
        self.watch = KeyWatch(
            DatabaseLocation.of(url, "keys"),
            Path(tempfile.mkdtemp()),
            self.ring,
            self.quotas,
            clock=lambda: self.now_s,
            wall_clock=wall_clock,
            log=self.log,  # type: ignore[arg-type]
        )
        self.watch.load()

    def code_of(self, text: str) -> str:
        try:
            self.ring.find(text)
        except CapameshError as error:
            return error.code
        return "taken"

    @property
    def events(self) -> list[str]:
        return self.log.events

    async def reached(self) -> None:
        """Look until the database is reached."""
        while self.events.count("keys_reached") < self.events.count("keys_unreachable"):
            await self.watch.look()


def made(url: str, **scope: object) -> str:
    store = KeyStore(DatabaseLocation.of(url, "keys"))
    return store.create("lab", Scope(**scope), store.now_s())[1]  # type: ignore[arg-type]


async def test_known_keys_go_on_while_the_server_is_down(server: Postgres, url: str) -> None:
    text = made(url)
    watched = Watched(url)
    server.stop()
    await watched.watch.look()
    assert (watched.code_of(text), watched.code_of(UNKNOWN)) == ("taken", "keys_unavailable")
    watched.now_s = TRUSTED_S + 1.0
    await watched.watch.look()
    assert watched.code_of(text) == "keys_unavailable"
    server.start()
    await watched.reached()
    assert (watched.code_of(text), watched.code_of(UNKNOWN)) == ("taken", "unauthenticated")
    await watched.watch.close()
    assert watched.events == ["keys_read", "keys_unreachable", "keys_reached"]


async def test_server_that_was_started_anew_is_not_even_noticed(server: Postgres, url: str) -> None:
    text = made(url)
    watched = Watched(url)
    server.stop()
    server.start()
    KeyStore(DatabaseLocation.of(url, "keys")).revoke(text[3:11], 1.0)
    await watched.watch.look()
    assert watched.code_of(text) == "unauthenticated"
    await watched.watch.close()
    assert watched.events == ["keys_read", "keys_read"]


async def test_frozen_server_keeps_nobody_waiting(
    server: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = made(url)
    watched = Watched(own_patience(url))
    monkeypatch.setattr(key_watch, "PATIENCE_S", 0.2)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    server.freeze()
    await watched.watch.look()
    assert (watched.code_of(text), watched.code_of(UNKNOWN)) == ("taken", "keys_unavailable")
    assert turns > 1  # else the loop stood still
    reading = watched.watch._reading
    assert reading is not None
    # it ends while the server is frozen: its socket was cut, and connecting has a limit
    await asyncio.wait({reading})
    server.thaw()
    monkeypatch.setattr(key_watch, "PATIENCE_S", 60.0)
    await watched.reached()
    assert watched.code_of(UNKNOWN) == "unauthenticated"
    counting.cancel()
    await watched.watch.close()


async def test_router_that_starts_while_the_server_is_down_takes_nobody_until_it_is_up(
    server: Postgres, url: str
) -> None:
    text = made(url)
    server.stop()
    watched = Watched(url)
    assert watched.ring.is_required
    assert watched.code_of(text) == "keys_unavailable"
    server.start()
    await watched.reached()
    assert (watched.code_of(text), watched.code_of(UNKNOWN)) == ("taken", "unauthenticated")
    await watched.watch.close()


def test_router_that_starts_while_the_server_is_frozen_starts(
    server: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = made(url)
    monkeypatch.setattr(key_watch, "PATIENCE_S", 0.2)
    server.freeze()
    watched = Watched(own_patience(url))
    assert watched.code_of(text) == "keys_unavailable"
    server.thaw()
    monkeypatch.setattr(key_watch, "PATIENCE_S", 60.0)
    asyncio.run(watched.reached())
    assert watched.code_of(text) == "taken"
    asyncio.run(watched.watch.close())


@pytest.mark.parametrize("secret", ["wrong-secret", "%77rong-secret"])
async def test_password_is_in_no_text(server: Postgres, url: str, secret: str) -> None:
    del url
    wrong = server.patient(server.url(password=secret))
    watched = Watched(wrong)
    await watched.watch.close()
    ((event, told),) = watched.log.told
    assert (event, "password authentication failed" in told["reason"]) == ("keys_unreachable", True)
    with pytest.raises(ConfigError) as caught:
        KeyStore(DatabaseLocation.of(wrong, "keys")).all()
    for text in (str(told), caught.value.message, repr(watched.watch), str(caught.value.__cause__)):
        assert "rong-secret" not in text


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@[db/keys", "postgresql://me:secret@db/keys?moon=secret"]
)
def test_url_that_postgresql_does_not_read_is_told_without_it(url: str) -> None:
    with pytest.raises(ConfigError, match="none that PostgreSQL reads") as caught:
        KeyStore(DatabaseLocation.of(url, "keys"))
    assert "secret" not in caught.value.message
    assert caught.value.__suppress_context__


async def test_keys_are_read_though_usage_cannot_be_written(server: Postgres, url: str) -> None:
    text = made(url)
    watched = Watched(url)
    name = sql.Identifier(own_patience(url).rpartition("/")[2])
    alter = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
    server.execute(alter.format(name, sql.Literal("on")))
    watched.quotas.admit(watched.ring.find(text), "m", 2, 10, 0.0).settle(5)
    watched.watch._store.close()  # type: ignore[union-attr] # the next connection is such a one
    # elsewhere: this database takes none now
    other = made(server.patient(server.url()), regions=())
    await watched.watch.look()
    assert watched.events == ["keys_read", "usage_unwritten"]
    assert (watched.code_of(text), watched.code_of(other)) == ("taken", "unauthenticated")
    server.execute(alter.format(name, sql.Literal("off")))
    watched.watch._store.close()  # type: ignore[union-attr]
    await watched.watch.look()
    await watched.watch.close()
    assert watched.events == ["keys_read", "usage_unwritten", "usage_written"]
    (amount,) = KeyStore(DatabaseLocation.of(url, "keys")).usage(0, 10**6).values()
    assert amount == (1, 2, 15)


async def test_keys_end_by_the_servers_clock(url: str) -> None:
    store = KeyStore(DatabaseLocation.of(url, "keys"))
    now_s = store.now_s()
    (ended, ends) = (store.create("lab", Scope(), 0.0, now_s + by_s)[1] for by_s in (-60.0, 3600.0))
    for wrong_s in (-86_400.0, 86_400.0):
        watched = Watched(url, lambda wrong_s=wrong_s: time.time() + wrong_s)  # type: ignore[misc]
        assert (watched.code_of(ended), watched.code_of(ends)) == ("unauthenticated", "taken")
        await watched.watch.close()


def test_change_that_is_not_gone_on_with_holds_up_nobody_for_long(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = made(url)
    with monkeypatch.context() as context:
        context.setattr(databases, "IDLE_S", 1)
        frozen = KeyStore(DatabaseLocation.of(url, "keys"))
    has_begun, may_end = threading.Event(), threading.Event()
    ended: list[Exception] = []

    def hold() -> None:
        while not has_begun.is_set():  # a machine that stands still ends it before it has begun
            try:
                with frozen._database.opened(is_written=True) as connection:
                    frozen._change(connection)
                    has_begun.set()
                    may_end.wait()
            except ConfigError as error:
                ended.append(error)

    holding = threading.Thread(target=hold)
    holding.start()
    has_begun.wait()
    for name in ("BUSY_S", "STATEMENT_S"):  # the server may have to wait for a core to end it
        monkeypatch.setattr(databases, name, 120)
    store = KeyStore(DatabaseLocation.of(url, "keys"))
    store.revoke(text[3:11], 1.0)
    may_end.set()
    holding.join()
    assert store.usable()[1] == []
    assert "idle-in-transaction" in str(ended[-1])


def test_change_that_another_holds_up_is_given_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = made(url)
    monkeypatch.setattr(databases, "BUSY_S", 1)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE changes SET stamp = stamp + 1")
        with pytest.raises(ConfigError, match="lock timeout"):
            KeyStore(DatabaseLocation.of(url, "keys")).revoke(text[3:11], 1.0)
        connection.rollback()


def test_table_of_somebody_else_is_left_alone(server: Postgres, url: str) -> None:
    server.execute("CREATE TABLE changes (mine TEXT)", url)
    store = KeyStore(DatabaseLocation.of(url, "keys"))
    for use in (store.stamp, lambda: store.create("lab", Scope(), 1.0)):
        with pytest.raises(ConfigError, match="give keys a database of their own"):
            use()
