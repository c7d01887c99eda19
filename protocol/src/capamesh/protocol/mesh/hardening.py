# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportPrivateUsage=false
# pyright: reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false
# libp2p is partly typed, and what must be guarded in it is private.
"""Keeps what a remote peer does from ending the process or filling its memory. Does IO, on trio.

Each wall stands where libp2p 0.8.1 was seen to have none: an exception in a task of a service ends the
whole host; an accepted connection keeps a place and a task for ever; received bytes are buffered without
limit; a peer that went away without a word stays connected; a close waits for a peer that does not read.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    GO_AWAY_NORMAL,
    TYPE_GO_AWAY,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
)
from libp2p.tools.anyio_service.trio_manager import TrioManager
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from libp2p.abc import INetStream
    from libp2p.network.swarm import Swarm
    from libp2p.peer.id import ID

    Warn = Callable[[str, object], None]

MAX_BUFFERED_BYTES: Final = 8 * 2**20
"""The most buffered bytes of a connection (guess: it carries gossip of about 1 MiB a message on a handful of streams)."""

MAX_STREAMS_PER_PEER: Final = 32
"""The most streams of a peer (guess: gossip, handshake, identify and ping need one or two each)."""

KEEPALIVE_EVERY_S: Final = 10.0
"""A keepalive is sent this often (guess: as often as an advert is due)."""

KEEPALIVE_LIMIT_S: Final = 10.0
"""A keepalive must be answered within this time (guess: a peer whose event loop is starved for longer is of no use)."""

_CLOSE_LIMIT_S: Final = 1.0
"""A close may take this long (guess: a goodbye to a peer that reads takes milliseconds)."""

_RESTART_WAIT_S: Final = 1.0
"""A loop that failed restarts after this time (guess: one heartbeat, so that it does not spin)."""


class WalledYamux(Yamux):
    """Yamux with a limit on what it buffers, a keepalive, and a close that always ends."""

    @override
    async def _read_data_body(self, length: int) -> bytes:
        buffered = sum(len(buffer) for buffer in self.stream_buffers.values())
        if buffered + length > MAX_BUFFERED_BYTES:
            # The one error that makes the reading loop close the connection.
            raise trio.TooSlowError(
                f"{buffered} bytes unread, {length} more; {MAX_BUFFERED_BYTES} fit"
            )
        return await super()._read_data_body(length)

    @override
    async def _measure_rtt_loop(self) -> None:
        while not self.event_shutting_down.is_set():
            await trio.sleep(KEEPALIVE_EVERY_S)
            self._ping_id = (self._ping_id + 1) % 2**32
            self._ping_event = trio.Event()
            self._ping_sent_time = trio.current_time()
            frame = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id)
            with trio.move_on_after(KEEPALIVE_LIMIT_S) as limit:
                try:
                    await self._write_frame(frame)
                    await self._ping_event.wait()
                except Exception:  # noqa: BLE001  # whatever it is, the connection is gone
                    break
            if limit.cancelled_caught:
                break
        if not self.event_closed.is_set():
            await self._cleanup_on_error()

    @override
    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Say goodbye if the peer reads, and close."""
        if self.event_closed.is_set():
            return
        with trio.move_on_after(_CLOSE_LIMIT_S):
            # A goodbye that cannot be said is not said.
            with suppress(Exception):
                await self._write_frame(
                    struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_GO_AWAY, 0, 0, error_code)
                )
        await self._cleanup_on_error()


def multiplex_within_limits() -> None:
    """Make every connection of this process a `WalledYamux`.

    The class that a host is given as its multiplexer is only negotiated; libp2p then makes its own.
    """
    muxer_multistream.Yamux = WalledYamux  # type: ignore[attr-defined]  # see above


def contain(
    task: Callable[..., Awaitable[None]], warn: Warn
) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return `task` as one whose failure is a warning and not the end of its nursery."""

    @functools.wraps(task)
    async def contained(*arguments: object) -> None:
        try:
            await task(*arguments)
        except Exception as exc:  # noqa: BLE001  # a wall; trio.Cancelled is no Exception
            warn("task_failed", f"{getattr(task, '__qualname__', task)}: {exc!r}")

    return contained


def contain_tasks(warn: Warn) -> None:
    """Keep a task of any libp2p service from ending the service; a loop that fails is started again.

    It holds for the whole process, which is why it is a process of its own.
    """
    run_task = TrioManager.run_task

    def run_contained(  # libp2p's own signature
        manager: TrioManager,
        async_fn: Callable[..., Awaitable[None]],
        *args: object,
        daemon: bool = False,
        name: str | None = None,
        _internal: bool = False,
    ) -> None:
        if _internal:
            # The service itself: without it there is nothing to keep.
            run_task(manager, async_fn, *args, daemon=daemon, name=name, _internal=True)
            return

        once = contain(async_fn, warn)

        async def repeated(*inner: object) -> None:
            await once(*inner)
            while daemon and not manager.is_cancelled:
                await trio.sleep(_RESTART_WAIT_S)
                await once(*inner)

        run_task(manager, functools.wraps(async_fn)(repeated), *args, daemon=daemon, name=name)

    TrioManager.run_task = run_contained  # type: ignore[method-assign, assignment]  # see above


def contain_streams(
    handler: Callable[[INetStream], Awaitable[None]], warn: Warn
) -> Callable[[INetStream], Awaitable[None]]:
    """Return `handler` for a stream from a remote peer, with its failures contained and its number bounded."""
    open_streams: Counter[ID] = Counter()

    async def contained(stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        if open_streams[peer] >= MAX_STREAMS_PER_PEER:
            warn("too_many_streams", peer)
            await _reset(stream)
            return
        open_streams[peer] += 1
        try:
            await handler(stream)
        except Exception as exc:  # noqa: BLE001  # a wall; trio.Cancelled is no Exception
            warn("stream_failed", f"{peer}: {exc!r}")
            await _reset(stream)
        finally:
            open_streams[peer] -= 1
            if not open_streams[peer]:
                del open_streams[peer]

    return contained


def remember_no_strangers(swarm: Swarm) -> None:
    """Keep no note of each peer that was ever connected: whom to dial is not the swarm's to decide."""
    swarm.auto_connector.record_disconnect = _nothing  # type: ignore[method-assign]  # see above


def _nothing(peer_id: ID) -> None:
    """Stand in for what kept each peer's id for ever."""


async def _reset(stream: INetStream) -> None:
    try:
        await stream.reset()
    except Exception:  # noqa: BLE001  # it is gone already
        return
