"""Measures what a request costs over gRPC, and over HTTP with binary tensors. One router and one node, loaded by both in turns.

`python benchmarks/wires.py [--rounds 3] [--seconds 3]`; needs wrk. The two requests of `overhead.py`. HTTP comes from wrk; gRPC from a
client in this process, over nghttp2, once with all requests on one connection, as gRPC's clients do, and once with one on each.
The CPU of the router's process is what a busy machine, and a client that takes part of it, disturb least.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop
from machine import cpu_s, keep
from ngh2 import (
    Configuration,
    Connection,
    Role,
    Setting,
    StreamClosed,
    TrailersReceived,
)
from overhead import Case, build_picture_model
from rich.console import Console
from rich.table import Table
from wrk import load, require_wrk

from capamesh.cli.local_cluster import LocalCluster
from capamesh.router.grpc.messages import CLASSES

SEED = 20261127
IN_FLIGHT = {"1 KiB": (1, 32), "600 KB": (1, 8)}
HEAD = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"router"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
BAR = 1.0
"""The least that gRPC's requests a second may be of HTTP's, 1 KiB, 32 in flight."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The figures of one run."""

    per_second: float
    router_cpu_us: float


class GrpcClient(asyncio.Protocol):
    """One connection with so many calls in flight, until a time."""

    def __init__(self, body: bytes, in_flight: int, until_s: float) -> None:
        self._body = body
        self._in_flight = in_flight
        self._until_s = until_s
        self._open = 0
        self.answered = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection = Connection(Role.CLIENT, Configuration())
        self._connection.initiate_connection({Setting.INITIAL_WINDOW_SIZE: 2**24})
        self._connection.set_local_window_size(2**26)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with all calls."""
        self._transport = transport
        for _ in range(self._in_flight):
            self._ask()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Ask again for each answer."""
        self._connection.receive_data(data)
        for event in self._connection.events():
            if isinstance(event, TrailersReceived):
                self.answered += dict(event.headers)[b"grpc-status"] == b"0"
            elif isinstance(event, StreamClosed):
                self._open -= 1
                if time.perf_counter() < self._until_s:
                    self._ask()
                elif not self._open:
                    self._transport.close()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over."""
        del exc
        self.over.set_result(None)

    def _ask(self) -> None:
        stream = self._connection.send_request(HEAD)
        self._connection.send_data(stream, self._body, end_stream=True)
        self._open += 1

    def _flush(self) -> None:
        data = self._connection.data_to_send()
        if data:
            self._transport.write(data)


def message_of(case: Case) -> bytes:
    """Return the request as gRPC sends it."""
    described = {"name": case.input_name, "datatype": "FP32", "shape": case.array.shape}
    message = CLASSES["ModelInferRequest"](
        model_name=case.model, inputs=[described], raw_input_contents=[case.array.tobytes()]
    ).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


async def by_grpc(
    address: tuple[str, int], pid: int, body: bytes, connections: int, in_flight: int, seconds: int
) -> Seen:
    """Load the router over gRPC."""
    began_s, cpu_before_s = time.perf_counter(), cpu_s(pid)
    loop = asyncio.get_running_loop()
    clients = [
        (
            await loop.create_connection(
                lambda: GrpcClient(body, in_flight, began_s + seconds), *address
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.over for client in clients))
    answered = sum(client.answered for client in clients)
    return Seen(
        answered / (time.perf_counter() - began_s), (cpu_s(pid) - cpu_before_s) / answered * 1e6
    )


async def by_http(url: str, pid: int, case: Case, in_flight: int, seconds: int) -> Seen:
    """Load the router over HTTP."""
    body, header_length = case.body()
    before_s = cpu_s(pid)
    seen = await load(
        f"{url}/v2/models/{case.model}/infer",
        body,
        header_length,
        connections=in_flight,
        seconds=seconds,
    )
    return Seen(seen.per_second, (cpu_s(pid) - before_s) / seen.requests * 1e6)


async def measure(rounds: int, seconds: int, console: Console) -> dict[str, object]:
    """Return all figures: medians over the rounds."""
    rng = np.random.default_rng(SEED)
    found: dict[tuple[str, int, str], list[Seen]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        shutil.copytree("build/models/digits", models / "digits")
        build_picture_model(models)
        cases = [
            Case("1 KiB", "digits", "X", rng.random((4, 64), np.float32)),
            Case("600 KB", "picture", "image", rng.random((1, 3, 224, 224), np.float32)),
        ]
        async with LocalCluster(Path(folder) / "cluster", models, nodes=1) as cluster:
            await cluster.wait_routable(1, models=[case.model for case in cases])
            host, _, port = cluster.http_url.removeprefix("http://").partition(":")
            address, pid = (host, int(port)), cluster.router.status()["pid"]
            for turn in range(rounds + 1):  # the first warms up
                for case in cases:
                    body = message_of(case)
                    for count in IN_FLIGHT[case.name]:
                        runs = {
                            "HTTP": await by_http(cluster.http_url, pid, case, count, seconds),
                            "gRPC, one connection": await by_grpc(
                                address, pid, body, 1, count, seconds
                            ),
                            "gRPC, one each": await by_grpc(address, pid, body, count, 1, seconds),
                        }
                        for wire, seen in runs.items():
                            if turn:
                                found.setdefault((case.name, count, wire), []).append(seen)
    table = Table("request", "in flight", "wire", "requests a second", "router CPU us")
    rows: list[dict[str, object]] = []
    for (name, count, wire), seen in found.items():
        per_second = statistics.median(each.per_second for each in seen)
        router_cpu_us = statistics.median(each.router_cpu_us for each in seen)
        table.add_row(name, str(count), wire, f"{per_second:,.0f}", f"{router_cpu_us:.1f}")
        rows.append(
            {
                "request": name,
                "in_flight": count,
                "wire": wire,
                "per_second": round(per_second),
                "router_cpu_us": round(router_cpu_us, 1),
            }
        )
    console.print(table)
    rates = {
        wire: statistics.median(each.per_second for each in found["1 KiB", 32, wire])
        for wire in ("HTTP", "gRPC, one connection")
    }
    ratio = rates["gRPC, one connection"] / rates["HTTP"]
    console.print(f"gRPC over HTTP, 1 KiB, 32 in flight: {ratio:.2f} (bar {BAR})")
    return {"seed": SEED, "rounds": rounds, "seconds": seconds, "ratio": ratio, "rows": rows}


def main() -> None:
    """Measure and keep the figures."""
    require_wrk()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=120)
    keep("wires", uvloop.run(measure(options.rounds, options.seconds, console)))


if __name__ == "__main__":
    main()
