"""Starts a child process, talks to it over a channel, and restarts it when it dies or hangs. Does IO."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from typing_extensions import override

from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
from capamesh.protocol.channel.backoff import Backoff, RestartPolicy, SilenceWatch
from capamesh.protocol.channel.framing import PING, PONG, Message
from capamesh.protocol.errors import CapameshError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

__all__ = ["Child", "RestartPolicy"]

_START_LIMIT_S: Final = 60.0
"""The longest start (guess: importing CUDA libraries from a cold disk takes up to half a minute)."""

_STATUS_S: Final = 1.0
"""Seconds after the end of a child's channel in which its exit status may come (guess)."""

_STOP_GRACE_S: Final = 5.0
"""Seconds that a child may take to say goodbye to its peers after it was asked to stop (guess)."""


class Child:
    """A supervised child process: the mesh sidecar, or the worker of a device.

    `run` starts it, sends the `opening` message (keys and settings: secrets never stand in the command
    line or the environment), delivers its messages and pings it. A child that exits, is silent for
    `silent_limit_s` or sends junk is killed, with its process group, and started again after a backoff.
    A child that has not said a word yet has `start_limit_s`.

    Callbacks run on the event loop and must not block; `on_down` gets the reason, for a person, each time
    a running child is lost (not when `run` is cancelled).
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        opening: Callable[[], Mapping[str, Any]],
        on_message: Callable[[Message], None],
        on_down: Callable[[str], None],
        log: FilteringBoundLogger,
        restart: RestartPolicy | None = None,
        ping_every_s: float = 1.0,
        start_limit_s: float = _START_LIMIT_S,
        silent_limit_s: float = 10.0,
        stop_grace_s: float = _STOP_GRACE_S,
        inherited: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        launch: Launch | None = None,
    ) -> None:
        """`inherited` are the numbers of descriptors that the child has too, besides its channel's.

        `environment` is the child's; None: it is this process's. `launch` starts it; None: as a process of the system.
        """
        self.name = name
        self._launch = launch or launched
        self._argv = tuple(argv)
        self._opening = opening
        self._on_message = on_message
        self._on_down = on_down
        self._log = log.bind(child=name)
        self._backoff = Backoff(restart or RestartPolicy())
        self._ping_every_s = ping_every_s
        self._start_limit_s = start_limit_s
        self._silent_limit_s = silent_limit_s
        self._stop_grace_s = stop_grace_s
        self._inherited = tuple(inherited)
        self._environment = environment
        self._process: Process | None = None
        self._channel: AsyncioChannel | None = None
        self._restart_reason = ""
        self.starts = 0

    @override
    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.pid is not None else "down"
        return f"Child({self.name}: {state}, {self.starts} starts)"

    @property
    def pid(self) -> int | None:
        """The process id, or None while the child is down."""
        return self._process.pid if self._process is not None else None

    def send(self, message: Mapping[str, Any]) -> bool:
        """Queue `message` to the child; False when it is down or does not read. Never waits.

        Raises:
            ProtocolViolation, TooLarge: the message cannot be framed (see `channel.framing.encode`).
        """
        return self._channel is not None and self._channel.send(message)

    def restart(self, reason: str) -> None:
        """Ask the child to end, and start it again at once with a new opening; one that is down starts so anyway."""
        if self._process is None:
            return
        self._restart_reason = reason
        self.send({"type": "stop"})
        asyncio.get_running_loop().call_later(self._stop_grace_s, self._process.kill)

    def forgive(self) -> None:
        """Start the child after the first wait when it is lost the next time: that it was lost of late is not its own fault."""
        self._backoff.reset()

    async def run(self) -> None:
        """Keep the child running until cancelled; then ask it to stop, wait a grace time, kill it."""
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            reason = await self._live_once()
            if self._restart_reason:
                reason, wait_s = f"restarted: {self._restart_reason}", 0.0
                self._restart_reason = ""
            else:
                wait_s = self._backoff.failed(loop.time() - started_s)
            self._log.warning("child_down", reason=reason, restart_in_s=round(wait_s, 3))
            self._call("on_down", self._on_down, reason)
            await asyncio.sleep(wait_s)

    async def _live_once(self) -> str:
        """Run one process from start to end; return why it ended."""
        try:
            process, channel = await self._launch(self._argv, self._inherited, self._environment)
        except OSError as exc:  # for example: no file descriptors left
            return f"cannot start {self._argv[0]}: {exc}"
        self.starts += 1
        self._log.info("child_started", pid=process.pid)
        try:
            self._process, self._channel = process, channel
            return await self._supervise(process, channel)
        except asyncio.CancelledError:
            await self._stop(process, channel)
            raise
        finally:
            self._process = self._channel = None
            process.kill()
            await process.wait()
            await channel.close()

    async def _supervise(self, process: Process, channel: AsyncioChannel) -> str:
        watch = SilenceWatch(
            ping_every_s=self._ping_every_s,
            start_limit_s=self._start_limit_s,
            silent_limit_s=self._silent_limit_s,
        )
        channel.send(self._opening())
        # of several that have ended at once the first says most
        ends = (
            asyncio.create_task(_exit_reason(process), name=f"{self.name} exit"),
            asyncio.create_task(self._receive(channel, watch), name=f"{self.name} receive"),
            asyncio.create_task(self._ping(channel, watch), name=f"{self.name} ping"),
        )
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return next(end for end in ends if end in done).result()
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _receive(self, channel: AsyncioChannel, watch: SilenceWatch) -> str:
        try:
            async for message in channel.messages():
                watch.heard()
                if message["type"] != PONG:
                    self._call("on_message", self._on_message, message)
        except CapameshError as exc:
            return f"sent junk: {exc.message}"
        # The stream ends when the process does; its exit status says more than the end of the stream.
        await asyncio.sleep(_STATUS_S)
        return "closed its channel"

    async def _ping(self, channel: AsyncioChannel, watch: SilenceWatch) -> str:
        while not watch.pinged():
            channel.send({"type": PING})
            await asyncio.sleep(self._ping_every_s)
        return f"silent for more than {self._silent_limit_s:g} s"

    async def _stop(self, process: Process, channel: AsyncioChannel) -> None:
        channel.send({"type": "stop"})
        try:
            async with asyncio.timeout(self._stop_grace_s):
                await process.wait()
        except TimeoutError:
            self._log.warning("child_killed", pid=process.pid, grace_s=self._stop_grace_s)

    def _call(self, name: str, callback: Callable[[Any], None], value: object) -> None:
        try:
            callback(value)
        except Exception:  # noqa: BLE001  # a callback's bug must not take the supervision with it
            self._log.exception("child_callback_failed", callback=name)


class Process(Protocol):
    """A process that was started."""

    pid: int

    async def wait(self) -> int:
        """Return the exit status once it has ended, less than 0 where a signal ended it."""
        ...

    def kill(self) -> None:
        """End it, and all that it has started; nothing happens where it has ended."""


Launch: TypeAlias = """Callable[
    [Sequence[str], Sequence[int], Mapping[str, str] | None], Awaitable[tuple[Process, AsyncioChannel]]
]"""
"""Starts a process with its arguments, descriptors and environment, and returns it with a channel to it. Raises `OSError`."""


async def launched(
    argv: Sequence[str], inherited: Sequence[int], environment: Mapping[str, str] | None
) -> tuple[Process, AsyncioChannel]:
    """Start a process of the system: `Launch`."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            channel = await AsyncioChannel.connect(ours)
        except OSError:
            ours.close()
            raise
        try:
            number = theirs.fileno()
            process = _Process(
                (*argv, "--channel-fd", str(number)), (number, *inherited), environment
            )
        except OSError:
            await channel.close()
            raise
    return process, channel


class _Process(Process):
    """A process of the system, whose end a thread waits for.

    `Popen` has the kernel share this process's memory until the other one begins; uvloop copies its page tables, which keeps the loop
    for 5 ms instead of 0.6 (measured, a process of 150 MB).
    """

    def __init__(
        self, argv: Sequence[str], inherited: Sequence[int], environment: Mapping[str, str] | None
    ) -> None:
        """Start it. Raises `OSError`."""
        self._popen = subprocess.Popen(  # noqa: S603 - a program of ours
            argv,
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            env=environment,
            # A Ctrl-C in the terminal reaches the owner alone, which then decides. No session of its own: Linux shares the cores among
            # sessions (autogroup), and a thread that gives way to all others does so within its own.
            process_group=0,
        )
        self.pid = self._popen.pid
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        threading.Thread(target=self._watch, name=f"end of {self.pid}", daemon=True).start()

    @override
    async def wait(self) -> int:
        await self._ended.wait()
        return self._popen.wait()

    @override
    def kill(self) -> None:
        if self._popen.returncode is None:  # it leads its group: a worker's own children go with it
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _watch(self) -> None:
        self._popen.wait()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ended.set)


async def _exit_reason(process: Process) -> str:
    status = await process.wait()
    if status < 0:
        return f"killed by signal {-status} ({signal.strsignal(-status)})"
    return f"exited with status {status}"
