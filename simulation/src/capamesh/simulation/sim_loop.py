# ruff: noqa: SLF001 - it changes asyncio's own loop at its seams
"""An event loop in virtual time: its clock jumps to the next timer, its TCP is in memory, a seed orders what is ready. Pure but for asyncio.

asyncio's own loop, transports and servers run, on sockets of `memory_tcp` and a selector that knows only these. The kernel's descriptors,
signals and child processes are refused. What is handed to an executor runs at once in the loop's thread, a turn later.

With a seed, events that are ready at the same moment come in an order that the seed draws, some a turn late, and reads and writes
end early now and then: every such run is one that real sockets could show. Callbacks keep asyncio's order. Without a seed all is first come, first served.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import heapq
import random
import selectors
import socket
import weakref
from asyncio import events
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from typing_extensions import override

from capamesh.simulation.memory_tcp import (
    FIRST_DESCRIPTOR,
    MACHINE,
    Machine,
    MemoryNetwork,
    MemorySocket,
)

START_S: Final = 1000.0
"""The loop's time at the start: a monotonic clock is not at 0 either."""
MOST_S: Final = 86_400.0
"""The most virtual time that a run may take, unless told otherwise."""
MOST_TURNS: Final = 2_000_000
"""The most turns in which something is ready each time: more is a spin (measured: some 20 s)."""
_ROUNDING_S: Final = 1e-9
_LATE: Final = 0.1
"""The share of events that come a turn late under a seed (guess)."""

_T = TypeVar("_T")


class Stalled(RuntimeError):
    """Nothing will ever happen any more, or nothing but a spin; the text says what waits, and where."""


class SimLoop(asyncio.SelectorEventLoop):
    """A loop whose every run with the same seed is the same."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _transports: Mapping[int, Any]

    def __init__(
        self,
        seed: int | None = None,
        *,
        start_s: float = START_S,
        most_s: float = MOST_S,
        turn_s: float = 0.0,
    ) -> None:
        """Begin at `start_s`; a run that comes further than `most_s` from there stalls.

        `turn_s` is the time that a turn takes: with 0 a client that asks again and again keeps time from passing.
        """
        self.rng = None if seed is None else random.Random(seed)  # noqa: S311 - replays
        self.network = MemoryNetwork(self, self.rng)
        self.cost_s: Callable[[Callable[..., object]], float] = lambda _function: 0.0
        """The virtual seconds that a function takes in an executor; a hook."""
        self._now_s = start_s
        self._most_s = most_s
        self._end_s = start_s + most_s
        self._turn_s = turn_s
        self._turns = 0
        self.stand_ins: weakref.WeakKeyDictionary[socket.socket, MemorySocket] = (
            weakref.WeakKeyDictionary()
        )
        self._halted: dict[Machine, list[asyncio.Handle]] = {}
        self._is_swept = True
        """False if timers of a machine that is halted may be scheduled."""
        self._tasks: weakref.WeakKeyDictionary[Machine, weakref.WeakSet[asyncio.Task[Any]]] = (
            weakref.WeakKeyDictionary()
        )
        self._dead: list[asyncio.Task[Any]] = []
        super().__init__(_MemorySelector(self))

    # Time.

    @override
    def time(self) -> float:
        return self._now_s

    def wait(self, seconds: float | None) -> None:
        """Let time pass while nothing is ready; None: no timer is set. Raises `Stalled`."""
        if seconds is None:
            raise Stalled(f"everything waits for ever:\n{self.waiting()}")
        self._turns = 0
        before_s, due_s = self.time(), self._scheduled[0].when()
        then_s = self._now_s + seconds
        self._now_s = due_s if abs(due_s - then_s) < _ROUNDING_S else then_s
        if self.time() == before_s:
            raise Stalled(f"the clock was made to stand still:\n{self.waiting()}")
        if self._now_s > self._end_s:
            self._end_s = self._now_s + self._most_s
            raise Stalled(f"{self._most_s:g} s passed:\n{self.waiting()}")

    def waiting(self) -> str:
        """Return a line for each task: where it waits."""
        return "\n".join(sorted(_place(task) for task in asyncio.all_tasks(self)))

    def turn(self) -> None:
        """Let a turn cost its time. Raises `Stalled`."""
        self._now_s += self._turn_s
        self._turns += 1
        if self._turns > MOST_TURNS:
            self._turns = 0
            raise Stalled(f"{MOST_TURNS} turns and nothing waits:\n{self.waiting()}")

    # Threads.

    @override
    def run_in_executor(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - variadic
        self, executor: object, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Run it in this thread, a turn later; what it takes is `cost_s`."""
        future: asyncio.Future[_T] = self.create_future()
        self.call_soon(self._run_inline, future, func, args)
        return future

    def _run_inline(
        self, future: asyncio.Future[_T], func: Callable[..., _T], args: tuple[Any, ...]
    ) -> None:
        if future.cancelled():
            return
        ended: concurrent.futures.Future[_T] = concurrent.futures.Future()
        try:
            ended.set_result(self.as_thread(func, *args))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - the caller's, as an executor does it
            ended.set_exception(exc)
        cost_s = self.cost_s(func)
        if cost_s:
            self.call_later(cost_s, _settle, future, ended)
        else:
            _settle(future, ended)

    def as_thread(self, func: Callable[..., _T], *args: object) -> _T:
        """Run it now as in a thread, which has no event loop."""
        running = events._get_running_loop()
        events._set_running_loop(None)
        try:
            return func(*args)
        finally:
            events._set_running_loop(running)

    # Sockets.

    @override
    async def create_server(
        self,
        protocol_factory: Any,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> asyncio.Server:
        for kept in ("family", "flags", "reuse_address", "reuse_port"):
            options.pop(kept, None)
        if isinstance(sock, MemorySocket):  # other processes may accept from it too
            return await super().create_server(protocol_factory, sock=sock.shared(), **options)
        if sock is not None:  # one of the kernel's gives its address
            host, port = sock.getsockname()[:2]
            sock.close()
        hosts = [host] if host is None or isinstance(host, str) else list(host)
        if len(hosts) != 1:
            raise NotImplementedError("a server in memory listens at one address")
        listener = self.network.socket(_family(hosts[0]))
        address = (hosts[0] or "0.0.0.0", port or 0)  # noqa: S104 - not the kernel's
        try:
            listener.bind(address)
        except OSError as exc:
            listener.close()
            text = (
                f"error while attempting to bind on address {address}: {str(exc.strerror).lower()}"
            )
            raise OSError(exc.errno, text) from None
        return await super().create_server(protocol_factory, sock=listener, **options)

    @override
    async def create_connection(
        self,
        protocol_factory: Any,
        host: str | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        ssl: Any = None,
        server_hostname: str | None = None,
        **options: Any,
    ) -> tuple[asyncio.Transport, Any]:
        if sock is None:
            sock = self.network.socket(_family(host))
            try:
                await self.sock_connect(sock, (host, port))
            except BaseException:
                sock.close()
                raise
            if ssl and server_hostname is None:
                server_hostname = host
        elif not isinstance(sock, MemorySocket):
            plain, sock = sock, self.stand_ins.pop(sock)
            plain.close()
        for kept in (
            "family",
            "proto",
            "flags",
            "local_addr",
            "happy_eyeballs_delay",
            "interleave",
        ):
            options.pop(kept, None)
        return await super().create_connection(
            protocol_factory, sock=sock, ssl=ssl, server_hostname=server_hostname, **options
        )

    @override
    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect a socket in memory; one of the kernel's gets one as a stand-in until it is made a transport."""
        await super().sock_connect(
            sock if isinstance(sock, MemorySocket) else self._stand_in(sock), address
        )

    def _stand_in(self, sock: socket.socket) -> MemorySocket:
        made = self.stand_ins[sock] = self.network.socket(sock.family)
        host = sock.getsockname()[0]
        if host != "0.0.0.0":  # noqa: S104 - it was bound to an address
            made.bind((host, 0))
        return made

    @override
    def call_at(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - variadic
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if self._halted and _machine_of(context) in self._halted:
            self._is_swept = False
        return super().call_at(when, callback, *args, context=context)

    def close_stand_ins(self) -> None:
        """Close the stand-ins of the kernel's sockets that were closed."""
        for plain, made in list(self.stand_ins.items()):
            if plain.fileno() < 0:
                made.close()
                del self.stand_ins[plain]

    # Machines.

    @override
    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = super().create_task(coro, **options)
        machine = _machine_of(options.get("context"))
        if machine is not None:
            self._tasks.setdefault(machine, weakref.WeakSet()).add(task)
        return task

    def freeze(self, machine: Machine) -> None:
        """Stop a machine's code, from the next turn on; its kernel goes on."""
        machine.is_halted = True
        self._halted.setdefault(machine, [])
        self._is_swept = False

    def thaw(self, machine: Machine) -> None:
        """Let it go on; the timers that have come due meanwhile fire now."""
        machine.is_halted = False
        handle: Any
        for handle in self._halted.pop(machine):
            if isinstance(handle, asyncio.TimerHandle):
                cast("Any", handle)._scheduled = True
                heapq.heappush(self._scheduled, handle)
            else:
                self._ready.append(handle)
        for each in self.network.sockets(machine):
            self.network.wake(each.fileno())

    def kill(self, machine: Machine, *, is_silent: bool = False) -> None:
        """End a machine's process from the next turn on: not a line of its code runs any more, and its sockets end.

        With `is_silent` its power fails: peers hear nothing.
        """
        self.freeze(machine)
        for each in self.network.sockets(machine):
            transport = self._transports.get(each.fileno())
            if transport is not None:
                transport._sock, transport._closing = None, True
            each.vanish(is_silent=is_silent)
        for task in self._tasks.pop(machine, ()):
            asyncio.tasks._unregister_task(task)
            cast("Any", task)._log_destroy_pending = False
            self._dead.append(task)  # else its `finally` would run when it is collected

    def _run_once(self) -> None:
        if self._halted:
            self._ready = deque(each for each in self._ready if not self._is_set_aside(each))
            if not self._is_swept:
                self._is_swept = True
                self._scheduled = [x for x in self._scheduled if not self._is_set_aside(x)]
                heapq.heapify(self._scheduled)
        super()._run_once()  # type: ignore[misc]

    def _is_set_aside(self, handle: Any) -> bool:  # noqa: ANN401 - asyncio's own fields
        aside = self._halted.get(handle._context.get(MACHINE))
        if aside is None:
            return False
        if isinstance(handle, asyncio.TimerHandle):
            cast("Any", handle)._scheduled = False
        aside.append(handle)
        return True

    @override
    def close(self) -> None:
        super().close()
        for task in self._dead:
            with suppress(Exception, BaseExceptionGroup):
                task.get_coro().close()
        self._dead.clear()
        self._halted.clear()

    # What the loop of a process has beside.

    @override
    def add_signal_handler(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - variadic
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        raise NotImplementedError("signals are the process's, not a simulated machine's")

    def _make_self_pipe(self) -> None:
        """Make none: no thread wakes the loop."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        """Wake nothing."""


class _MemorySelector(selectors.BaseSelector):
    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._network = loop.network
        self._keys: dict[int, selectors.SelectorKey] = {}

    @override
    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = _descriptor(fileobj)
        if descriptor < FIRST_DESCRIPTOR:
            raise NotImplementedError(
                "a descriptor of the kernel's in a simulated loop; what needs it needs a real loop"
            )
        key = selectors.SelectorKey(fileobj, descriptor, events, data)
        self._keys[descriptor] = key
        self._network.wake(descriptor)
        return key

    @override
    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(_descriptor(fileobj))

    @override
    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.register(fileobj, events, data)

    @override
    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[_descriptor(fileobj)]

    @override
    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        loop.turn()
        if loop.stand_ins:
            loop.close_stand_ins()
        ready = self._ready()
        if loop.rng is not None and ready:
            loop.rng.shuffle(ready)
            ready = [each for each in ready if loop.rng.random() >= _LATE] or ready[:1]
        if not ready and timeout != 0:
            loop.wait(timeout)
        return ready

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = []
        awake = self._network.awake
        for descriptor, each in list(awake.items()):
            key = self._keys.get(descriptor)
            found = 0
            if key is not None and not each.machine.is_halted:
                found |= selectors.EVENT_READ if each.is_readable else 0
                found |= selectors.EVENT_WRITE if each.is_writable else 0
                found &= key.events
            if key is not None and found:
                ready.append((key, found))
            else:
                del awake[descriptor]
        return ready


def _machine_of(context: Context | None) -> Machine | None:
    return MACHINE.get() if context is None else context.get(MACHINE)


def _settle(future: asyncio.Future[_T], ended: concurrent.futures.Future[_T]) -> None:
    if future.cancelled():
        return
    if (error := ended.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(ended.result())


def _descriptor(fileobj: int | socket.socket) -> int:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()


def _family(host: str | None) -> socket.AddressFamily:
    return socket.AF_INET6 if host and ":" in host else socket.AF_INET


def _place(task: asyncio.Task[Any]) -> str:
    """Return a task's name and the lines that it waits in, the innermost last."""
    places: list[str] = []
    waiting: Any = task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        waiting = waiting.cr_await
    return f"  {task.get_name()} {task.get_coro()!r}: {' > '.join(places)}"
