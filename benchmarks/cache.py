"""Measures what a kept answer costs a router, and what keeping costs where nothing repeats. One router and one node, loaded in turns.

    python benchmarks/cache.py [--rounds 8] [--seconds 2] [--distinct 1000000]

Two models: magika, the largest that takes text of those that the repository has (2,048 bytes of a file as INT32, 8 KiB), and digits (1 KiB). Each is hosted
under two names, one of which has a cache in the router's rules:

- `off`: the name without a cache, inputs that never repeat;
- `miss`: the name with one, inputs that never repeat;
- `hit`: the same, one input again and again.

In each round `off` and `miss` take turns, in one order and then in the other, and ratios are of turns beside each other: the CPU time of the router's process,
in nanoseconds as the kernel counts it, is what a busy machine disturbs least. Then 100 equal requests come at once, and at last `--distinct` requests of
digits, no two alike, with a cache of 16 MiB: the router's memory along the way. wrk makes the load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop
from machine import keep, memory_bytes
from rich.console import Console
from rich.table import Table
from wrk import require_wrk

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.oip import encode_request
from capamesh.protocol.tensors import Tensor

CONNECTIONS = 16
AT_ONCE = 100
CACHE_MIB = 16
METRICS_KEPT_S = 2.0
"""Seconds after which a page of metrics is surely another than before (guess: it is kept for 20 times what it took)."""
HIT_BAR_US = 60.0
"""The most CPU of the router that a hit may take."""
RATE_BAR = 2.0
"""The least that hits' rate may be of misses', on the model of text."""
MISS_BAR = 1.03
"""The most that misses may cost of what they cost without a cache."""
RULES = "".join(f"[{name}-on]\ncache = {{ ttl_s = 86400 }}\n" for name in ("magika", "digits"))
SCRIPT = """
local n = {start}
local parts = {{}}
for at = 1, 4 do
  local file = io.open("{folder}/" .. at, "rb")
  parts[at] = file:read("*a")
  file:close()
end
local char, floor = string.char, math.floor
function request()
  if {is_new} then n = n + 1 end
  return parts[1] .. char(n % 256) .. parts[2] .. char(floor(n / 256) % 256) .. parts[3]
    .. char(floor(n / 65536) % 256) .. parts[4]
end
function done(summary)
  local e = summary.errors
  io.write(string.format('\\n{{"requests":%d,"duration_us":%d,"failed":%d}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A model and a request for it, of which three bytes of the input are others where inputs are not to repeat."""

    model: str
    tensor: Tensor
    places: tuple[int, int, int]
    """The places of these bytes in the tensor's data."""

    def pieces(self, name: str) -> list[bytes]:
        """Return the whole HTTP request to the model of that name, without the three bytes, in four pieces."""
        buffers, json_bytes = encode_request([self.tensor])
        body = b"".join(buffers)
        head = (
            f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            f"Inference-Header-Content-Length: {json_bytes}\r\n\r\n"
        ).encode()
        whole = head + body
        first, second, third = (len(head) + json_bytes + place for place in self.places)
        return [
            whole[:first],
            whole[first + 1 : second],
            whole[second + 1 : third],
            whole[third + 1 :],
        ]


@dataclass(frozen=True, slots=True)
class Seen:
    """The figures of one turn: a rate, and the CPU of a request at the router and at all processes together."""

    per_second: float
    router_us: float
    all_us: float


class Bench:
    """A cluster under load, and the numbers of which none comes twice."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._number = 0
        self.router: int = cluster.router.status()["pid"]
        nodes = [pid for node in cluster.nodes for pid in node.status().get("worker_pids", [])]
        self._pids = [self.router, *nodes]

    async def load(self, case: Case, kind: str, seconds: float) -> tuple[int, float]:
        """Load the router in one way; return how many requests were answered, and in how many seconds."""
        name = f"{case.model}-{'off' if kind == 'off' else 'on'}"
        for at, piece in enumerate(case.pieces(name), 1):
            (self._folder / str(at)).write_bytes(piece)
        script = self._folder / "load.lua"
        is_new = "false" if kind == "hit" else "true"
        start = 0 if kind == "hit" else self._number
        script.write_text(SCRIPT.format(start=start, folder=self._folder, is_new=is_new))
        process = await asyncio.create_subprocess_exec(
            *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "30s"),
            *("-s", str(script)),
            self._cluster.http_url,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        figures = json.loads(said.decode().splitlines()[-1])
        if figures["failed"]:
            raise SystemExit(f"{figures['failed']} of {figures['requests']} requests failed")
        if kind != "hit":
            self._number += figures["requests"] + 2 * CONNECTIONS
        return figures["requests"], figures["duration_us"] / 1e6

    async def turn(self, case: Case, kind: str, seconds: float) -> Seen:
        """Load the router in one way; return what that cost."""
        before = [cpu_ns(pid) for pid in self._pids]
        answered, taken_s = await self.load(case, kind, seconds)
        spent = [cpu_ns(pid) - was for pid, was in zip(self._pids, before, strict=True)]
        return Seen(answered / taken_s, spent[0] / answered / 1e3, sum(spent) / answered / 1e3)

    async def runs_at_once(self, case: Case) -> dict[str, float]:
        """Send equal requests at once that nobody has sent before; return what they came to, by the router's own count."""
        self._number += 1
        number = self._number
        first, second, third, fourth = case.pieces(f"{case.model}-on")
        new = [bytes((number >> shift & 255,)) for shift in (0, 8, 16)]
        request = first + new[0] + second + new[1] + third + new[2] + fourth
        host, _, port = self._cluster.http_url.removeprefix("http://").partition(":")
        before = await self._counts(case)
        ends = [await asyncio.open_connection(host, int(port)) for _ in range(AT_ONCE)]
        for _, writer in ends:
            writer.write(request)
        for reader, writer in ends:
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise SystemExit(f"the router answered {head!r:.200}")
            writer.close()
        after = await self._counts(case)
        return {name: count - before.get(name, 0) for name, count in after.items()}

    async def _counts(self, case: Case) -> dict[str, float]:
        await asyncio.sleep(METRICS_KEPT_S)
        host, _, port = self._cluster.http_url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        line = rf'capamesh_cache_requests_total{{model="{case.model}-on",result="(\w+)"}} (\S+)'
        return {name: float(count) for name, count in re.findall(line, text)}

    async def flat(self, case: Case, distinct: int) -> tuple[int, list[float]]:
        """Send requests of which no two are alike; return how many, and the router's memory in MiB along the way."""
        sent, mib = 0, []
        while sent < distinct:
            answered, _ = await self.load(case, "miss", 10.0)
            sent += answered
            mib.append(round(memory_bytes(self.router) / 2**20, 1))
        return sent, mib


def cpu_ns(pid: int) -> int:
    """Return the CPU time that all threads of a process have used, in nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


async def measure(
    rounds: int, seconds: float, distinct: int, console: Console
) -> dict[str, object]:
    """Return all figures: medians over the rounds."""
    data = np.zeros((4, 64), np.float32)
    data[0, 0] = 0.5  # its bytes but the last may be any, and it stays a number
    magika = Tensor.from_numpy("bytes", np.full((1, 2048), 100, np.int32))
    cases = [
        Case("magika", magika, (0, 4, 8)),
        Case("digits", Tensor.from_numpy("X", data), (0, 1, 2)),
    ]
    turns: dict[tuple[str, str], list[Seen]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for case in cases:
            for way in ("off", "on"):
                shutil.copytree(f"build/models/{case.model}", models / f"{case.model}-{way}")
        rules = Path(folder) / "rules.toml"
        rules.write_text(RULES)
        options = ("--rules", str(rules), "--cache-mib", str(CACHE_MIB))
        async with LocalCluster(
            Path(folder) / "cluster", models, nodes=1, router_options=options
        ) as cluster:
            names = [f"{case.model}-{way}" for case in cases for way in ("off", "on")]
            await cluster.wait_routable(1, models=names)
            bench = Bench(cluster, Path(folder))
            for number in range(rounds + 1):  # the first warms up
                for case in cases:
                    order = ("off", "miss") if number % 2 else ("miss", "off")
                    for kind in (*order, "hit"):
                        seen = await bench.turn(case, kind, seconds)
                        if number:
                            turns.setdefault((case.model, kind), []).append(seen)
            at_once = await bench.runs_at_once(cases[0])
            sent, mib = await bench.flat(cases[1], distinct)
    return told(turns, console) | told_rest(at_once, sent, mib, console)


def told(turns: dict[tuple[str, str], list[Seen]], console: Console) -> dict[str, object]:
    """Show the figures of the turns and return them."""
    table = Table("model", "cache", "requests a second", "router CPU us", "router and node CPU us")
    rows: list[dict[str, object]] = []
    for (model, kind), seen in turns.items():
        rate, router_us, all_us = (
            statistics.median(getattr(each, name) for each in seen)
            for name in ("per_second", "router_us", "all_us")
        )
        table.add_row(model, kind, f"{rate:,.0f}", f"{router_us:.1f}", f"{all_us:.1f}")
        rows.append(
            {
                "model": model,
                "cache": kind,
                "per_second": round(rate),
                "router_us": round(router_us, 1),
                "all_us": round(all_us, 1),
            }
        )
    console.print(table)
    figures: dict[str, object] = {"rows": rows}
    for model in ("magika", "digits"):
        off, miss, hit = (turns[model, kind] for kind in ("off", "miss", "hit"))
        router = ratio(miss, off, "router_us")
        whole = ratio(miss, off, "all_us")
        rate = ratio(hit, miss, "per_second")
        hit_us = statistics.median(each.router_us for each in hit)
        console.print(
            f"{model}: hit {hit_us:.1f} us of the router's CPU (bar {HIT_BAR_US:g}), {rate:.2f} times the rate of misses (bar"
            f" {RATE_BAR:g} of the text); misses over none: router {router:.3f}, router and node {whole:.3f} (bar {MISS_BAR:g})"
        )
        figures[model] = {
            "hit_router_us": round(hit_us, 1),
            "hit_over_miss_rate": round(rate, 2),
            "miss_over_off_router": round(router, 3),
            "miss_over_off_all": round(whole, 3),
        }
    return figures


def told_rest(
    at_once: dict[str, float], sent: int, mib: list[float], console: Console
) -> dict[str, object]:
    """Show what equal requests came to, and the memory, and return both."""
    console.print(f"{AT_ONCE} equal requests at once: {at_once}")
    console.print(
        f"{sent:,} distinct requests: {mib[0]} MiB of the router after the first tenth, {max(mib)} at most, {mib[-1]} at the end"
    )
    return {"at_once": at_once, "distinct": sent, "memory_mib": mib}


def ratio(one: list[Seen], other: list[Seen], name: str) -> float:
    """Return the median of what a figure is of another, turn by turn."""
    return statistics.median(
        getattr(a, name) / getattr(b, name) for a, b in zip(one, other, strict=True)
    )


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--distinct", type=int, default=1_000_000)
    options = parser.parse_args()
    require_wrk()
    console = Console(width=140)
    figures = measure(options.rounds, options.seconds, options.distinct, console)
    keep("cache", uvloop.run(figures))


if __name__ == "__main__":
    main()
