"""Runs h2load, over HTTP/1.1 or HTTP/2, and reads its figures. Starts a process.

One client for both: what it takes of the machine for a request is much the same.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_RATE = re.compile(r"^finished in [\d.]+m?s, ([\d.]+) req/s", re.MULTILINE)
_COUNTS = re.compile(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """The figures of one run."""

    per_second: float
    answered: int
    """The requests with a status of 2xx; gRPC's own status is not looked at."""


def require_h2load() -> None:
    """Exit with what to do when there is no h2load."""
    if shutil.which("h2load") is None:
        raise SystemExit(
            "h2load is needed and was not found: apt-get install nghttp2-client, or brew install nghttp2"
        )


async def load(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    is_http1: bool,
    connections: int,
    in_flight: int,
    seconds: int,
) -> Load:
    """Send `body` again and again: `in_flight` requests at a time on each of the connections. SystemExit: some failed."""
    with tempfile.TemporaryDirectory() as folder:
        payload = Path(folder) / "body"
        payload.write_bytes(body)
        process = await asyncio.create_subprocess_exec(
            "h2load",
            "--h1" if is_http1 else "--alpn-list=h2",
            "--threads=1",
            f"--clients={connections}",
            f"--max-concurrent-streams={in_flight}",
            f"--duration={seconds}",
            f"--data={payload}",
            *(f"--header={name}: {value}" for name, value in headers.items()),
            url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
    said = out.decode()
    rate, counts = _RATE.search(said), _COUNTS.search(said)
    if process.returncode or rate is None or counts is None or counts[2] != "0" or counts[3] != "0":
        raise SystemExit(f"h2load ended with {process.returncode}: {said}")
    return Load(float(rate[1]), int(counts[1]))
