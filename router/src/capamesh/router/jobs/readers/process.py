"""One process that reads inputs, as the router sees it: started, asked, given the bytes of files, and ended at will. IO: a process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from capamesh.protocol.child import Child
from capamesh.protocol.errors import CapameshError, ProtocolViolation
from capamesh.protocol.private_files import reason_of
from capamesh.router.jobs.errors import InputInvalid, ReaderEnded
from capamesh.router.jobs.readers.words import (
    CALL,
    CPU_S,
    ENDED,
    FILE_BYTES,
    ITEM_S,
    READY,
    SILENT_S,
    mib,
)

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.channel.framing import Message
    from capamesh.router.jobs.inputs.source import Files, Source
    from capamesh.router.jobs.readers.input_reading import InThread

ARGV: Final = (sys.executable, "-P", "-m", "capamesh.router.jobs.readers")
PING_S: Final = 5.0
"""Seconds between two pings (guess: what is looked for is silence of `SILENT_S`)."""
MOST_OPENS: Final = 64
"""The most times that a task opens its file (guess: each look at names, ranges or rows does once)."""
MOST_REASON: Final = 300
"""The most characters of a reason that a reader gives (guess)."""
STOP_S: Final = 0.2
"""Seconds for a reader to end by itself: it has nothing to bring to an end (guess)."""
_KEPT_VARIABLES: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CAPAMESH_PURE",
)
"""The variables of the environment that a reader has, and those of Python: the others may be keys of stores."""


class FilesToRead:
    """The file that a reader works on, and those beside it that its rows name; its methods block."""

    def __init__(self, source: Source, beside: Files | None, in_thread: InThread) -> None:
        self.source = source
        self.in_thread = in_thread
        """The threads in which the methods are to be called."""
        self._beside = beside
        self._far: list[BinaryIO] = []
        self._opens = 0
        self._named: Iterator[bytes | InputInvalid] = iter(())
        self._rest = memoryview(b"")
        """The bytes of the file of `_named` that were not given on yet."""

    def stamp(self) -> dict[str, Any]:
        """Return the stamp that the source has now."""
        stamp = self.source.stamp()
        return {"size_bytes": stamp.size_bytes, "changed": stamp.changed}

    def open(self) -> tuple[dict[str, Any], BinaryIO | None]:
        """Open the source and return its stamp, and the file, which is the caller's; None: it is far away, and has a number for `read`."""
        if self._opens == MOST_OPENS:
            raise InputInvalid(f"a reader asked for the file more than {MOST_OPENS} times")
        self._opens += 1
        file, stamp = self.source.open()
        about = {"size_bytes": stamp.size_bytes, "changed": stamp.changed}
        try:
            file.fileno()
        except OSError:  # ranges have none
            self._far.append(file)
            return {**about, "file": len(self._far) - 1}, None
        return about, file

    def read(self, file: int, at: int, size_bytes: int) -> dict[str, Any]:
        """Return bytes of an opened file from a place on."""
        opened = self._far[file]
        opened.seek(at)
        return {"data": opened.read(min(size_bytes, FILE_BYTES))}

    def name(self, paths: Sequence[str]) -> dict[str, Any]:
        """Begin with the files at paths beside the source, which `next_file` gives."""
        if self._beside is None:
            raise InputInvalid("no files beside the input are wanted")
        self._named = iter(self._beside.named(paths))
        return {}

    def next_file(self) -> dict[str, Any]:
        """Return bytes of the next file of `name`, and whether there are more of it."""
        if not self._rest:
            found = next(self._named, None)
            if found is None:
                raise InputInvalid("a reader asked for more files than it had named")
            if isinstance(found, InputInvalid):
                return {"refused": found.message}
            self._rest = memoryview(found)
        piece, self._rest = self._rest[:FILE_BYTES], self._rest[FILE_BYTES:]
        return {"data": bytes(piece), "is_more": bool(self._rest)}

    def close(self) -> None:
        """Let go of what is open; another task may begin. What a thread reads still is closed once that ends, and not waited for."""
        self._far = []
        self._opens = 0


class ReaderProcess:
    """A reader. One at a time asks it."""

    def __init__(
        self,
        memory_bytes: int,
        hidden: Sequence[Path],
        on_sandbox: Callable[[str], None],
        log: FilteringBoundLogger,
    ) -> None:
        """Start it. `hidden` are folders and files that it may not look into, and `memory_bytes` what it may take beside its code.

        `on_sandbox` is told what holds of its sandbox, before it has read anything.
        """
        self._on_sandbox = on_sandbox
        self._memory_bytes = memory_bytes
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)  # one that takes no descriptors stops nobody
        self._theirs = theirs
        self._rows = _memory_file()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer: asyncio.Future[Message] | None = None
        self._files: FilesToRead | None = None
        self._serving: asyncio.Task[None] | None = None
        self.tenant: str | None = None
        """The tenant whose inputs it reads, and no other's; None: nobody's yet."""
        self.is_nice = False
        """True if it has had other tasks than looks, from which on it has little of processors."""
        self.ended = ""
        """The reason why it has ended; "": it has not."""
        descriptors = (theirs.fileno(), self._rows.fileno())
        self._child = Child(
            "input reader",
            (*ARGV, "--files-fd", str(descriptors[0]), "--rows-fd", str(descriptors[1])),
            opening=lambda: {
                "type": "start",
                "memory_bytes": memory_bytes,
                "hidden": [str(each) for each in hidden],
            },
            on_message=self._heard,
            on_down=self._down,
            log=log,
            ping_every_s=PING_S,
            silent_limit_s=SILENT_S,
            stop_grace_s=STOP_S,
            inherited=descriptors,
            environment=_environment(),
        )
        self._life = asyncio.create_task(self._child.run())

    @property
    def is_busy(self) -> bool:
        """Return whether it works on something, and would have to be ended to stop that."""
        return self._answer is not None

    @property
    def pid(self) -> int | None:
        """The process id; None: it has not started, or has ended."""
        return self._child.pid

    async def ask(self, message: Mapping[str, Any], files: FilesToRead | None = None) -> Message:
        """Send a message and return what it is answered with; `files` are those of a new task.

        Raises:
            ReaderEnded: it ended over it, or had ended before.
        """
        await asyncio.shield(self._ready)
        if files is not None:
            self._files = files
        self._answer = asyncio.get_running_loop().create_future()
        if self.ended or not self._child.send(message):
            raise ReaderEnded(self.ended or "the reader of inputs does not listen")
        try:
            async with asyncio.timeout(ITEM_S):
                answer = await self._answer
        except TimeoutError:
            self.end(f"it took more than {ITEM_S:g} s at one go")
            raise ReaderEnded(self.ended) from None
        self._answer = None
        if answer["type"] == ENDED:
            self.end(str(answer.get("reason"))[:MOST_REASON])
            raise ReaderEnded(self.ended)
        return answer

    def drop(self) -> None:
        """Have it drop the task of which it waits to be asked for more."""
        self._child.send({"type": "drop"})

    def rows(self, at: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Return bytes of the tensors of the last answer, of shape [size_bytes]. Blocks; raises `ProtocolViolation`."""
        data = np.empty(size_bytes, np.uint8)
        view, done = data.data, 0
        while done < size_bytes:
            count = os.preadv(self._rows.fileno(), [view[done:]], at + done)
            if not count:
                raise ProtocolViolation(
                    "a reader of inputs announced more bytes of rows than it gave"
                )
            done += count
        return data

    async def close(self) -> None:
        """End it, whatever it does."""
        self.end("it was ended")
        with suppress(asyncio.CancelledError):
            await self._life
        if self._serving is not None:
            self._serving.cancel()
        self._ours.close()
        self._theirs.close()
        self._rows.close()

    def _heard(self, message: Message) -> None:
        if message["type"] == READY:
            if not self._ready.done():
                self._on_sandbox(message["sandbox"])
                self._ready.set_result(None)
        elif self._answer is None or self._answer.done():
            self.end("it spoke without being asked")
        elif message["type"] != CALL:
            self._answer.set_result(message)
        elif self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(message))
        else:
            self.end("it called again before it was answered")

    def _down(self, reason: str) -> None:
        self.end(self._told(reason))

    def end(self, reason: str) -> None:
        """End it at once, for a reason."""
        if self.ended:
            return
        self.ended = reason
        for future in (self._ready, self._answer):
            if future is not None and not future.done():
                future.set_exception(ReaderEnded(reason))
                future.exception()  # it may be that nobody waits for it
        self._life.cancel()

    def _told(self, reason: str) -> str:
        """Return how it ended, for people, and what may be done."""
        memory = mib(self._memory_bytes)
        if f"signal {signal.SIGXCPU.value}" in reason:
            return f"it took more than {CPU_S} s of processor time at one go"
        if f"signal {signal.SIGKILL.value}" in reason:
            return f"it was killed, as systems do that run out of memory (it may take {memory} MiB)"
        return f"it {reason} (it may take {memory} MiB of memory)"

    async def _serve(self, call: Message) -> None:
        """Answer a call for the bytes of a file."""
        files = self._files
        assert files is not None  # noqa: S101 - it has a task
        file: BinaryIO | None = None
        try:
            match call["what"]:
                case "stamp":
                    found = await files.in_thread(files.stamp)
                case "open":
                    found, file = await files.in_thread(files.open)
                case "read":
                    numbers = int(call["file"]), int(call["at"]), int(call["size_bytes"])
                    found = await files.in_thread(partial(files.read, *numbers))
                case "name":
                    found = await files.in_thread(
                        partial(files.name, [str(each) for each in call["paths"]])
                    )
                case "next file":
                    found = await files.in_thread(files.next_file)
                case what:
                    found = {"error": InputInvalid.code, "message": f"there is no {what!r}"}
        except CapameshError as exc:
            found = {"error": exc.code, "message": exc.message}
        except OSError as exc:
            message = f"cannot read {files.source.name}: {reason_of(exc)}"
            found = {"error": InputInvalid.code, "message": message}
        except Exception as exc:  # noqa: BLE001 - what a reader asks for that makes no sense is its own matter
            found = {
                "error": InputInvalid.code,
                "message": f"a reader asked in vain: {exc!r}"[:300],
            }
        if file is not None:
            with file:
                try:
                    socket.send_fds(self._ours, [b"\0"], [file.fileno()])
                except OSError as exc:
                    self.end(f"it does not take its file: {reason_of(exc)}")
        self._child.send({"type": "answer", "is_here": file is not None, **found})


def _memory_file() -> BinaryIO:
    """Return a file in memory, where a system has such, which has no name."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("rows"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _environment() -> dict[str, str]:
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if name in _KEPT_VARIABLES or name.startswith("PYTHON")
        },
        # memory that is given back, and no threads that wait for work
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
