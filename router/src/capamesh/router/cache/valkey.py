"""A Valkey or Redis in which several routers share kept answers. IO: one TCP connection.

A request waits some milliseconds for it and then goes on without it. What is late in a row is asked no more for a while, and
what is away is not asked, so that a slow store costs no request anything. Commands are never taken back: each reply is read in
its turn, and what comes too late is thrown away. Should one be taken for another's all the same, its seal tells.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from typing_extensions import override

from capamesh.protocol.channel.backoff import Backoff, RestartPolicy
from capamesh.protocol.errors import ConfigError, ProtocolViolation
from capamesh.router.cache.breaker import Breaker
from capamesh.router.cache.resp import Replies, Reply, command
from capamesh.router.cache.shared import MOST_BYTES, SharedStore

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.cache.shared import Then
    from capamesh.router.cache.store_address import StoreAddress

BUDGET_S: Final = 0.005
"""A request waits so long (guess: a store in the same rack needs a tenth of it)."""
LOOP_LATE_S: Final = 0.002
"""A timer that comes so much too late shows that the loop was busy, and that what has come is still to be read (guess)."""
GRACE_S: Final = 0.001
"""The time to read it in (guess: more than a turn of the loop)."""
MOST_PENDING: Final = 512
"""Commands whose replies are still to come; with more, it is not asked (guess: far more than 5 ms hold)."""
MOST_UNSENT_BYTES: Final = 4 * 2**20
"""The bytes that wait to be sent; with more, it is told nothing (guess: 64 of the largest entries)."""
SILENT_S: Final = 5.0
"""A connection on which a reply is overdue for so long is ended (guess)."""
CONNECT_S: Final = 5.0
"""Seconds for connecting, and again for logging in (guess)."""


class _Pending:
    """One command whose reply is still to come."""

    __slots__ = ("due_s", "then")

    def __init__(self, due_s: float, then: Then | None) -> None:
        self.due_s = due_s
        self.then = then
        """The callback that takes what was found; None: nobody waits."""


class _Connection(asyncio.Protocol):
    """One connection: tells of each reply in its turn, until something else comes."""

    def __init__(self, on_reply: Callable[[Reply], None]) -> None:
        self.on_reply = on_reply
        self._replies = Replies(MOST_BYTES)
        self.transport: asyncio.Transport
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reason = "the connection was lost"

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    @override
    def data_received(self, data: bytes) -> None:
        try:
            replies = self._replies.feed(data)
        except ProtocolViolation as error:
            self.end(error.message)
            return
        for reply in replies:
            self.on_reply(reply)

    def end(self, reason: str) -> None:
        """End the connection: nothing that comes counts any more."""
        self.reason = reason
        self.on_reply = _passed_by
        self.transport.abort()


class ValkeyStore(SharedStore):
    """A store of which `run` keeps a connection."""

    __slots__ = (
        "_address",
        "_breaker",
        "_clock",
        "_connection",
        "_is_away",
        "_is_late_loop",
        "_log",
        "_look_s",
        "_pending",
        "_rng",
        "_timer",
        "found",
        "late",
        "missed",
        "skipped",
    )

    def __init__(
        self,
        address: StoreAddress,
        log: FilteringBoundLogger,
        *,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """`clock` is in seconds and never goes back; `rng` spreads the attempts to connect."""
        self._address = address
        self._log = log
        self._clock = clock
        self._rng = rng
        self._connection: _Connection | None = None
        """The connection once it is logged in."""
        self._pending: deque[_Pending] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = 0.0
        """The time at which the timer is due."""
        self._is_late_loop = False
        """True while the timer is one that was set because the loop was late."""
        self._breaker = Breaker()
        self._is_away = False
        """True while the log says that the store is away."""
        self.found = self.missed = self.late = self.skipped = 0
        """Counts look-ups that found something, nothing, or nothing in time, and those that were not made."""

    @override
    def __repr__(self) -> str:
        return f"ValkeyStore({self._address!r}, {len(self._pending)} pending)"

    @property
    def is_reached(self) -> bool:
        """Return whether there is a connection, and all that was sent on it is answered."""
        return self._connection is not None and not self._pending

    @override
    def get(self, name: bytes, then: Then) -> bool:
        connection = self._connection
        if (
            connection is None
            or len(self._pending) >= MOST_PENDING
            or not self._breaker.may_ask(self._clock())
        ):
            self.skipped += 1
            return False
        self._send(connection, then, b"GET", name)
        return True

    @override
    def put(self, name: bytes, value: bytes, ttl_s: float) -> None:
        connection = self._connection
        if (
            connection is not None
            and len(self._pending) < MOST_PENDING
            and not self._breaker.is_open(self._clock())
            and connection.transport.get_write_buffer_size() < MOST_UNSENT_BYTES
        ):
            ttl_ms = max(1, int(ttl_s * 1000))
            self._send(connection, None, b"SET", name, value, b"PX", b"%d" % ttl_ms)

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        backoff = Backoff(RestartPolicy())
        while True:
            began_s = self._clock()
            try:
                reason = await self._connected()
            except (OSError, TimeoutError, ConfigError) as error:
                reason = str(error) or type(error).__name__
            if not self._is_away:
                self._is_away = True
                self._log.warning("shared_cache_away", store=repr(self._address), reason=reason)
            await asyncio.sleep(backoff.failed(self._clock() - began_s, self._rng.random()))

    async def _connected(self) -> str:
        """Be connected until the connection ends; return why it did."""
        address = self._address
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if address.is_tls else None
        async with asyncio.timeout(CONNECT_S):
            _, connection = await loop.create_connection(
                lambda: _Connection(_passed_by), address.host, address.port, ssl=context
            )
        try:
            async with asyncio.timeout(CONNECT_S):
                await _log_in(connection, address)
            connection.on_reply = self._replied
            self._connection = connection
            self._breaker.was_in_time()
            self._is_away = False
            self._log.info("shared_cache_reached", store=repr(address))
            await connection.lost
        finally:
            self._connection = None
            connection.end(connection.reason)
            self._drop_all()
        return connection.reason

    def _send(self, connection: _Connection, then: Then | None, *words: bytes) -> None:
        due_s = self._clock() + BUDGET_S
        self._pending.append(_Pending(due_s, then))
        connection.transport.write(command(*words))
        if self._timer is None or self._look_s > due_s:  # it waits for one that is overdue already
            self._arm(BUDGET_S)

    def _replied(self, reply: Reply) -> None:
        """Take the reply to the oldest command."""
        if not self._pending:
            if self._connection is not None:
                self._connection.end("it says what nobody has asked for")
            return
        then = self._pending.popleft().then
        if then is None:
            return
        self._breaker.was_in_time()
        if reply.value is None:
            self.missed += 1
        else:
            self.found += 1
        then(reply.value)

    def _arm(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_s = self._clock() + delay_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        """Let nobody wait longer than the budget, and end a connection that says nothing any more."""
        self._timer = None
        now_s = self._clock()
        is_late_loop = self._is_late_loop
        self._is_late_loop = False
        if now_s - self._look_s > LOOP_LATE_S and not is_late_loop:
            self._is_late_loop = True
            self._arm(GRACE_S)
            return
        if self._pending and now_s > self._pending[0].due_s + SILENT_S:
            if self._connection is not None:
                self._connection.end(f"it was silent for {SILENT_S:g} s")
            return
        next_s = SILENT_S
        late: list[Then] = []
        for pending in self._pending:
            if pending.then is None:
                continue
            if pending.due_s > now_s:
                next_s = pending.due_s - now_s
                break
            late.append(pending.then)
            pending.then = None
        if late:
            self.late += len(late)
            self._breaker.was_late(now_s)
        if self._pending:
            self._arm(next_s)
        for then in late:
            then(None)

    def _drop_all(self) -> None:
        pending, self._pending = self._pending, deque()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_late_loop = False
        for each in pending:
            if each.then is not None:
                each.then(None)


async def _log_in(connection: _Connection, address: StoreAddress) -> None:
    """Log in and choose the database. Raises `ConfigError`: the store refuses that."""
    commands: list[bytes] = []
    if address.password:
        user = (address.user.encode(),) if address.user else ()
        commands.append(command(b"AUTH", *user, address.password.encode()))
    commands += [command(b"SELECT", b"%d" % address.database), command(b"PING")]
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    left = len(commands)

    def replied(reply: Reply) -> None:
        nonlocal left
        left -= 1
        if not answered.done() and (reply.error or not left):
            answered.set_result(reply.error)

    connection.on_reply = replied
    connection.transport.write(b"".join(commands))
    ends: set[asyncio.Future[Any]] = {answered, connection.lost}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    refusal = answered.result() if answered.done() else connection.reason
    if refusal:
        raise ConfigError(f"the store refuses this router: {refusal}")


def _passed_by(_: Reply) -> None:
    """Take a reply that nobody waits for."""
