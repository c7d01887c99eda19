"""Real child processes under supervision; each is this file's own few lines of asyncio or trio."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from capamesh.protocol import child as child_module
from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
from capamesh.protocol.channel.backoff import SilenceWatch
from capamesh.protocol.child import Child, RestartPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LIMIT_S = 120.0

ASYNCIO_CHILD = """
import asyncio, os, sys
from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
async def main():
    channel = await AsyncioChannel.inherit(int(sys.argv[-1]))
    async for message in channel.messages():
        match message["type"]:
            case "stop": return
            case "exit": os._exit(3)
            case "junk": os.write(int(sys.argv[-1]), b"\\xff" * 8)
            case "hang up": await channel.close(); await asyncio.sleep(3600)
            case "deaf": await asyncio.sleep(3600)
            case _: channel.send(message | {"type": "echo", "pid": os.getpid()}); await channel.drain()
asyncio.run(main())
"""

TRIO_CHILD = """
import os, sys, trio
from capamesh.protocol.channel.trio_channel import TrioChannel
async def main():
    channel = TrioChannel.inherit(int(sys.argv[-1]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        async for message in channel.messages():
            if message["type"] == "stop": break
            channel.send(message | {"type": "echo", "pid": os.getpid()})
        nursery.cancel_scope.cancel()
trio.run(main)
"""

STUBBORN_CHILD = """
import os, signal, sys, time
os.write(int(sys.argv[-1]), b"\\x0b\\x00\\x00\\x00\\x81\\xa4type\\xa4ping")
while True: time.sleep(1)
"""


class Owner:
    """Records what its child said, and lets a test wait for it."""

    def __init__(self, program: str, **options: float) -> None:
        self.heard: list[dict[str, Any]] = []
        self.downs: list[str] = []
        self._changed = asyncio.Event()
        self.child = Child(
            "test",
            [sys.executable, "-c", program],
            opening=lambda: {"type": "opening", "key": "s3cret"},
            on_message=lambda message: self._note(self.heard, message),
            on_down=lambda reason: self._note(self.downs, reason),
            restart=RestartPolicy(first_s=0.01, most_s=0.05),
            ping_every_s=0.05,
            start_limit_s=LIMIT_S,
            log=structlog.get_logger(),
            **{"silent_limit_s": LIMIT_S, "stop_grace_s": LIMIT_S} | options,
        )

    def _note(self, notes: list[Any], note: object) -> None:
        notes.append(note)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def owned(program: str, **options: float) -> AsyncIterator[Owner]:
    owner = Owner(program, **options)
    task = asyncio.create_task(owner.child.run())
    try:
        yield owner
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def is_running(pid: int) -> bool:
    """Whether a process runs; an orphan may be gone though nobody has collected its exit status yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_child_that_is_to_restart_ends_in_order_and_starts_again_at_once() -> None:
    async with owned(ASYNCIO_CHILD) as owner:
        await owner.until(lambda: len(owner.heard) == 1)
        first = owner.child.pid
        owner.child.restart("for good reason")
        await owner.until(lambda: len(owner.heard) == 2)
        assert owner.downs == ["restarted: for good reason"]
        assert owner.child.starts == 2
        assert owner.child.pid != first
        assert [message["key"] for message in owner.heard] == ["s3cret", "s3cret"]


@pytest.mark.parametrize("is_restart", [True, False])
async def test_child_that_will_not_end_for_its_restart_or_for_good_is_killed(
    is_restart: bool,
) -> None:
    async with owned(STUBBORN_CHILD, stop_grace_s=0.1) as owner:
        async with asyncio.timeout(LIMIT_S):
            while owner.child.pid is None:  # it says nothing that could be waited for
                await asyncio.sleep(0)
        pid = owner.child.pid
        if is_restart:
            owner.child.restart("for good reason")
            await owner.until(lambda: owner.downs != [])
            assert owner.downs == ["restarted: for good reason"]
    assert not is_running(pid)


@pytest.mark.parametrize("program", [ASYNCIO_CHILD, TRIO_CHILD], ids=["asyncio", "trio"])
async def test_child_gets_its_opening_answers_and_is_gone_after_a_clean_stop(
    program: str,
) -> None:
    async with owned(program) as owner:
        await owner.until(lambda: len(owner.heard) == 1)
        pid = owner.child.pid
        assert owner.heard == [{"type": "echo", "key": "s3cret", "pid": pid}]
        assert (os.getpgid(pid), os.getsid(pid)) == (pid, os.getsid(0))
        for name in ("cmdline", "environ"):
            proc = Path(f"/proc/{pid}/{name}")
            assert b"s3cret" not in proc.read_bytes()  # noqa: ASYNC240  # a proc file answers at once
        assert owner.child.send({"type": "hello", "number": 7})
        await owner.until(lambda: len(owner.heard) == 2)
        assert owner.heard[1] == {"type": "echo", "number": 7, "pid": pid}
    assert not is_running(pid)
    assert owner.downs == []
    assert owner.child.pid is None
    assert owner.child.send({"type": "hello"}) is False


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "exited with status 3"),
        ("junk", "sent junk: a message of 4294967295 bytes was announced"),
        ("killed", "killed by signal 9 (Killed)"),
    ],
)
async def test_child_that_ends_is_started_again_and_gets_its_opening_again(
    how: str, reason: str
) -> None:
    async with owned(ASYNCIO_CHILD) as owner:
        await owner.until(lambda: len(owner.heard) == 1)
        if how == "killed":
            os.kill(owner.heard[0]["pid"], signal.SIGKILL)
        else:
            owner.child.send({"type": how})
        await owner.until(lambda: len(owner.heard) == 2)
        assert owner.downs[0].startswith(reason)
        assert owner.heard[1]["key"] == "s3cret"
        assert owner.heard[0]["pid"] != owner.heard[1]["pid"] == owner.child.pid
        assert owner.child.starts == 2


async def test_child_that_closes_its_channel_and_lives_on_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_module, "_STATUS_S", 0.05)
    async with owned(ASYNCIO_CHILD) as owner:
        await owner.until(lambda: len(owner.heard) == 1)
        owner.child.send({"type": "hang up"})
        await owner.until(lambda: len(owner.downs) == 1)
        assert owner.downs == ["closed its channel"]
        await owner.until(lambda: any("key" in heard for heard in owner.heard[1:]))


async def test_stopped_child_is_detected_by_its_silence_killed_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watches: list[SilenceWatch] = []

    def watch(**options: float) -> SilenceWatch:
        # a child that has to wait for a core is silent, too
        watches.append(SilenceWatch(**{**options, "silent_limit_s": LIMIT_S}))
        return watches[-1]

    monkeypatch.setattr(child_module, "SilenceWatch", watch)
    async with owned(ASYNCIO_CHILD, silent_limit_s=2.0) as owner:
        await owner.until(lambda: len(owner.heard) == 1)
        pid = owner.heard[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        stopped = SilenceWatch(ping_every_s=0.05, start_limit_s=LIMIT_S, silent_limit_s=2.0)
        watches[0]._silent_limit = stopped._silent_limit
        await owner.until(lambda: len(owner.heard) == 2)
        assert owner.downs == ["silent for more than 2 s"]
        assert not is_running(pid)


async def test_child_that_does_not_read_never_grows_the_owners_memory() -> None:
    async with owned(ASYNCIO_CHILD) as owner:
        await owner.until(lambda: len(owner.heard) == 1)
        owner.child.send({"type": "deaf"})
        chunk = {"type": "data", "data": bytes(2**20)}
        sent = 0
        while owner.child.send(chunk):
            sent += 1
            assert sent < 64
        assert sent >= 30
        # A deaf child never hears "stop" either: shorten the wait for it.
        owner.child._stop_grace_s = 0.1


async def test_command_that_does_not_exist_is_reported_and_tried_again() -> None:
    owner = Owner("")
    owner.child._argv = ("/nonexistent/program",)
    task = asyncio.create_task(owner.child.run())
    await owner.until(lambda: len(owner.downs) == 2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert owner.downs[0].startswith("cannot start /nonexistent/program: ")


async def test_child_for_which_there_are_no_descriptors_is_reported_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusals = iter([OSError(errno.EMFILE, "Too many open files")] * 2)

    def socketpair() -> tuple[socket.socket, socket.socket]:
        for refusal in refusals:
            raise refusal
        return socket.socketpair()

    monkeypatch.setattr(child_module, "socket", SimpleNamespace(socketpair=socketpair))
    async with owned(ASYNCIO_CHILD) as owner:
        await owner.until(lambda: len(owner.heard) == 1)
        reason = f"cannot start {sys.executable}: [Errno 24] Too many open files"
        assert owner.downs == [reason, reason]
        assert owner.child.starts == 1


async def test_callback_that_raises_does_not_end_the_supervision() -> None:
    async with owned(ASYNCIO_CHILD) as owner:
        await owner.until(lambda: len(owner.heard) == 1)
        note = owner.child._on_message

        def raising(message: dict[str, Any]) -> None:
            note(message)
            raise ValueError("a bug of the owner")

        owner.child._on_message = raising
        owner.child.send({"type": "one"})
        owner.child.send({"type": "two"})
        await owner.until(lambda: len(owner.heard) == 3)
        assert owner.downs == []


async def test_child_exits_when_its_owner_dies() -> None:
    program = f"""
import asyncio, os, sys, structlog
from capamesh.protocol.child import Child
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
def started(message):
    print(message["pid"], flush=True)
child = Child("c", [sys.executable, "-c", {TRIO_CHILD!r}], opening=lambda: {{"type": "opening"}},
    on_message=started, on_down=print, log=structlog.get_logger())
asyncio.run(child.run())
"""
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            pid = int(await owner.stdout.readline())
        assert is_running(pid)
    finally:
        owner.kill()
        await owner.wait()
    async with asyncio.timeout(LIMIT_S):
        while is_running(pid):  # a process that is not ours sends no event
            await asyncio.sleep(0.01)


async def test_channel_answers_pings_without_showing_them() -> None:
    left, right = socket.socketpair()
    one, other = await AsyncioChannel.connect(left), await AsyncioChannel.connect(right)
    one.send({"type": "ping"})
    one.send({"type": "done"})
    async with asyncio.timeout(LIMIT_S):
        async for message in other.messages():
            assert message == {"type": "done"}
            break
        async for message in one.messages():
            assert message == {"type": "pong"}
            break
    await one.close()
    assert [message async for message in other.messages()] == []
    await other.close()
