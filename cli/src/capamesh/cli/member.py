"""One router or node of a local cluster, as a process of its own. IO: starts and signals a process, reads files."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from capamesh.cli.variables import PREFIX, passed_on
from capamesh.protocol.data_dir import read_status
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.implementation import PURE
from capamesh.protocol.private_files import make_folder

LOG_FILE: Final = "log.jsonl"
ERROR_PREFIX: Final = "capamesh: error: "
"""The beginning of a command's error: the last lines of a process that could not go on begin so."""
_TAIL_BYTES: Final = 64 * 1024
"""The bytes of a log in which its last lines are looked for (guess: lines have some hundred, tracebacks a few thousand)."""


class Member:
    """A process started by `capamesh router run` or `capamesh node run`; it leads a session of its own."""

    def __init__(
        self,
        name: str,
        data_folder: Path,
        process: asyncio.subprocess.Process,
        parent_liveness_fd: int,
        log_start: int = 0,
    ) -> None:
        """Take over a started process; it stops when `parent_liveness_fd` is closed, as it is when this process dies."""
        self.name = name
        self._leash_fd: int | None = parent_liveness_fd
        self.data_folder = data_folder
        self.log_file = data_folder / LOG_FILE
        self._process = process
        self._log_start = log_start
        """The size of the log when this process was started: what lies before is of earlier ones."""

    @override
    def __repr__(self) -> str:
        state = "running" if self.is_running else f"ended with {self._process.returncode}"
        return f"Member({self.name}, pid {self.pid}, {state})"

    @classmethod
    async def start(
        cls, name: str, data_folder: Path, arguments: Sequence[str], token_file: Path
    ) -> Member:
        """Start `capamesh ARGUMENTS` with the join token of a file and its log in its data folder."""
        make_folder(data_folder)
        kept = {PURE, *passed_on(arguments)}
        environment = {f"{PREFIX}NAME": name} | {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(PREFIX) or key in kept
        }
        owner_fd, parent_liveness_fd = os.pipe()
        try:
            with (data_folder / LOG_FILE).open("ab") as log, os.fdopen(owner_fd):
                log_start = log.tell()
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "capamesh.cli", *arguments),
                    *("--data", str(data_folder), "--token-file", str(token_file)),
                    *("--owner-fd", str(owner_fd)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=(owner_fd,),
                    # A Ctrl-C in the terminal reaches the cluster's owner alone, which stops members in order. They share its session:
                    # jobs give way to people's requests within a session alone (autogroup).
                    process_group=0,
                )
        except BaseException:
            os.close(parent_liveness_fd)
            raise
        # Nothing is awaited from the start on: a cancelled caller would lose a running process.
        return cls(name, data_folder, process, parent_liveness_fd, log_start)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Return whether the process has not ended."""
        return self._process.returncode is None

    def status(self) -> dict[str, Any]:
        """Return what it wrote of itself last (`home.read_status`); empty before it has written anything."""
        try:
            status = read_status(self.data_folder)
        except ConfigError:
            return {}
        # A folder that was used before holds the status of the process before.
        return status if status.get("pid") == self.pid else {}

    def signal(self, number: int) -> None:
        """Send a signal to the process; nothing when it has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; return the exit status, negative for a signal."""
        code = await self._process.wait()
        if self._leash_fd is not None:
            os.close(self._leash_fd)
            self._leash_fd = None
        return code

    async def stop(self, limit_s: float) -> int:
        """Let it finish its work and end; kill it after `limit_s`. Return the exit status."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    def last_lines(self, count: int = 5) -> str:
        """Return the end of its log, without the lines of earlier processes."""
        try:
            with self.log_file.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - _TAIL_BYTES))
                lines = log.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(lines[-count:]) or "(its log is empty)"

    def exit_report(self) -> str:
        """Return how it ended and why: in its own words, or else the end of its log."""
        code = self._process.returncode
        how = f"exit status {code}" if code is None or code >= 0 else f"signal {-code}"
        last_lines = self.last_lines()
        last_words = itertools.takewhile(
            lambda line: line.startswith(ERROR_PREFIX), reversed(last_lines.splitlines())
        )
        reasons = [line.removeprefix(ERROR_PREFIX) for line in last_words]
        if code and code > 0 and reasons:
            return f"{self.name} (pid {self.pid}) ended with {how}: {'; '.join(reversed(reasons))}"
        return f"{self.name} (pid {self.pid}) ended with {how}; its log, {self.log_file}, ends with:\n{last_lines}"
