"""Runs wrk against an inference route and reads its figures. Starts a process."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "{content_type}"
wrk.headers["Inference-Header-Content-Length"] = "{header_length}"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"failed":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """The figures of one run of wrk."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    failed: int

    @property
    def per_second(self) -> float:
        """Answered requests a second."""
        return self.requests * 1e6 / self.duration_us


def require_wrk() -> None:
    """Exit with what to do when there is no wrk."""
    if shutil.which("wrk") is None:
        raise SystemExit(
            "wrk is needed and was not found: apt-get install wrk, or brew install wrk"
        )


async def load(
    url: str,
    body: bytes,
    header_length: int,
    *,
    connections: int,
    seconds: int,
    content_type: str = "application/octet-stream",
) -> Load:
    """Send `body` again and again over `connections` kept-alive connections."""
    with tempfile.TemporaryDirectory() as folder:
        payload, script = Path(folder) / "body", Path(folder) / "post.lua"
        payload.write_bytes(body)
        script.write_text(
            _SCRIPT.format(body=payload, header_length=header_length, content_type=content_type)
        )
        process = await asyncio.create_subprocess_exec(
            "wrk",
            "--threads=1",
            f"--connections={connections}",
            f"--duration={seconds}s",
            "--latency",
            f"--script={script}",
            url,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    lines = [line for line in out.decode().splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        raise SystemExit(f"wrk ended with {process.returncode}: {out.decode()}")
    (line,) = lines
    return Load(**json.loads(line))
