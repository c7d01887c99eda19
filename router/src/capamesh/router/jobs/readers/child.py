"""The process that reads inputs: closed in, bounded, and with no file but those whose bytes the router gives it. IO: that."""

from __future__ import annotations

import io
import json
import math
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from typing_extensions import override

from capamesh.protocol import sandbox
from capamesh.protocol.channel.blocking_channel import BlockingChannel
from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.sandbox.memory import limit_memory
from capamesh.protocol.schema import plain_values, read
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.opening import check_planned, file_reader
from capamesh.router.jobs.inputs.ranges import RangeFile
from capamesh.router.jobs.inputs.reader import Reader
from capamesh.router.jobs.inputs.rows import plain_windows
from capamesh.router.jobs.inputs.source import Files, Source, Stamp
from capamesh.router.jobs.readers.input_reading import counted_rows, name_pieces, plan_pieces
from capamesh.router.jobs.readers.wire import MOST_BYTES, packed
from capamesh.router.jobs.readers.words import (
    CALL,
    CPU_S,
    DONE,
    ENDED,
    ERRORS,
    FAILED,
    ITEM,
    LOOK,
    NAMES,
    NEXT,
    PLAN,
    READY,
    ROWS,
    mib,
)
from capamesh.router.jobs.spec import InputSpec
from capamesh.router.jobs.values import RowRange

WORK_NICENESS: Final = 15
"""Plans and rows take what processors have left, and nodes that wait for rows leave it (guess)."""


class Gone(BaseException):
    """The router is gone, or wants no more of this process: no error of what is read, which libraries may turn into others."""


class RouterChannel:
    """The router, as its reader sees it."""

    def __init__(self, channel: BlockingChannel, files: socket.socket) -> None:
        self._channel = channel
        self._descriptors = files
        self.send = channel.send

    def next(self) -> Mapping[str, Any]:
        """Return the next message. Raises `Gone`."""
        message = self._channel.next()
        if message is None or message["type"] == "stop":
            raise Gone
        return message

    def call(self, what: str, **arguments: object) -> Mapping[str, Any]:
        """Return what a call is answered with; raises what went wrong."""
        self.send({"type": CALL, "what": what, **arguments})
        answer = self.next()
        if "error" in answer:
            raise ERRORS.get(answer["error"], InputInvalid)(answer["message"])
        return answer

    def open(self) -> tuple[BinaryIO, Stamp]:
        """Return the file of the task, and its stamp."""
        answer = self.call("open")
        stamp = Stamp(answer["size_bytes"], answer["changed"])
        if answer["is_here"]:
            _, (descriptor,), _, _ = socket.recv_fds(self._descriptors, 1, 1)
            return os.fdopen(descriptor, "rb"), stamp

        def read(start: int, end: int) -> bytes:
            asked = {"file": answer["file"], "at": start, "size_bytes": end - start}
            return cast("bytes", self.call("read", **asked)["data"])

        raw = RangeFile(read, stamp.size_bytes, reads_ahead=False)
        return cast("BinaryIO", io.BufferedReader(raw)), stamp


class _RouterFile(Source):
    """The file of the task."""

    def __init__(self, router: RouterChannel, name: str) -> None:
        super().__init__(name)
        self._router = router

    @override
    def open(self) -> tuple[BinaryIO, Stamp]:
        return self._router.open()

    @override
    def stamp(self) -> Stamp:
        answer = self._router.call("stamp")
        return Stamp(answer["size_bytes"], answer["changed"])


class _RouterFiles(Files):
    """The files beside that of the task."""

    def __init__(self, router: RouterChannel, name: str) -> None:
        super().__init__(name)
        self._router = router

    @override
    def named(self, paths: Sequence[str]) -> Iterator[bytes | InputInvalid]:
        self._router.call("name", paths=list(paths))
        for _ in paths:
            answer = self._router.call("next file")
            if "refused" in answer:
                yield InputInvalid(answer["refused"])
                continue
            pieces = [answer["data"]]
            while answer["is_more"]:
                answer = self._router.call("next file")
                pieces.append(answer["data"])
            yield b"".join(pieces)


def serve(router: RouterChannel, rows_fd: int, memory_bytes: int) -> None:
    """Do tasks until the router is gone, or one has used up this process."""
    with suppress(Gone):
        while True:
            message = router.next()
            if message["type"] not in _TASKS:
                continue  # more of a task that has ended
            try:
                _do(router, message, rows_fd)
            except CapameshError as exc:
                router.send({"type": FAILED, "error": exc.code, "message": exc.message})
            except MemoryError:
                words = f"it needs more than the {mib(memory_bytes)} MiB of memory that a reader may take"
                router.send({"type": ENDED, "reason": words})
                return


def _do(router: RouterChannel, message: Mapping[str, Any], rows_fd: int) -> None:
    """Do a task, an item at a time."""
    if message["type"] != LOOK:
        # there is no way back: looks go to others from now on
        os.nice(max(0, WORK_NICENESS - os.nice(0)))
    _limit_cpu()
    for item in _TASKS[message["type"]](router, message, rows_fd):
        router.send({"type": ITEM, **item})
        if router.next()["type"] != NEXT:
            return
        _limit_cpu()
    router.send({"type": DONE})


def _opened(router: RouterChannel, message: Mapping[str, Any]) -> tuple[Reader, InputSpec, Source]:
    spec = read(message["input"], InputSpec)
    source = _RouterFile(router, message["name"])
    return file_reader(spec, source, _RouterFiles(router, message["name"])), spec, source


def _look(router: RouterChannel, message: Mapping[str, Any], _: int) -> Iterator[dict[str, Any]]:
    reader, spec, source = _opened(router, message)
    yield {"rows": counted_rows(reader, spec, source)}


def _plan(router: RouterChannel, message: Mapping[str, Any], _: int) -> Iterator[dict[str, Any]]:
    reader, spec, _source = _opened(router, message)
    limits = read(message["limits"], ShardLimits)
    for fingerprint, ranges in plan_pieces(reader, spec, limits, time.monotonic):
        yield {"fingerprint": fingerprint, "ranges": [plain_values(each) for each in ranges]}


def _rows(
    router: RouterChannel, message: Mapping[str, Any], rows_fd: int
) -> Iterator[dict[str, Any]]:
    reader, spec, _source = _opened(router, message)
    check_planned(reader, spec, message["fingerprint"])
    inputs = {
        name: TensorSpec(name, Datatype[datatype], tuple(shape))
        for name, datatype, shape in message["inputs"]
    }
    left = message["skip"]
    for window in plain_windows(reader, read(message["range"], RowRange), spec, inputs):
        for head, blobs in packed(window):
            if left:
                left -= 1
                yield {}
                continue
            at = 0
            os.ftruncate(rows_fd, 0)
            for blob in blobs:
                view = blob.data if isinstance(blob, np.ndarray) else memoryview(blob)
                while view:
                    count = os.pwrite(rows_fd, view, at)
                    view, at = view[count:], at + count
            yield {"head": head}


def _names(router: RouterChannel, message: Mapping[str, Any], _: int) -> Iterator[dict[str, Any]]:
    source = _RouterFile(router, message["name"])
    for names in name_pieces(source, read(message["range"], RowRange)):
        yield {"names": json.dumps(names).encode()}


_TASKS: Final = {LOOK: _look, PLAN: _plan, ROWS: _rows, NAMES: _names}


def _limit_cpu() -> None:
    """Let this process have `CPU_S` from now on, after which the kernel ends it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = math.ceil(time.process_time()) + CPU_S
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def close_in(memory_bytes: int, hidden: Sequence[Path]) -> str:
    """Bound this process and close it in, for good; return what holds, for people."""
    for number in (signal.SIGINT, signal.SIGTERM):  # when to stop is the router's to say
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # of all processes, the kernel is to end this one first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))
    limit_memory(memory_bytes)
    libraries = sandbox.libraries()
    for folder in hidden:
        libraries = sandbox.apart_from(folder.resolve(), libraries)
    held, missing = sandbox.close(
        sandbox.Allowed(
            libraries=libraries,
            read=sandbox.paths(*sandbox.SYSTEM_FILES),
            written=(),
            devices=(Path("/dev/null"),),
        ),
        socket_families=(),
    )
    return ", ".join(held or ["none"]) + "".join(f"; {one}" for one in missing)


def main(channel_fd: int, files_fd: int, rows_fd: int) -> None:
    """Serve the router at the other ends of these."""
    channel = BlockingChannel.inherit(channel_fd)
    files = socket.socket(fileno=files_fd)
    router = RouterChannel(channel, files)
    with suppress(Gone):
        start = router.next()
        memory_bytes = int(start["memory_bytes"])
        holds = close_in(memory_bytes, [Path(each) for each in start["hidden"]])
        router.send({"type": READY, "sandbox": holds})
        serve(router, rows_fd, memory_bytes)
    sys.exit(0)
