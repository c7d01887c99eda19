"""A network on this machine: one router, three nodes, real models, and two nodes that go while it is busy.

`make demo`, or `python scripts/demo.py [--keep] [--requests 2000] [--concurrency 16] [--times 1]`. Exit code 0 only if
every answer was right, none was missing, and the dead node was out of rotation.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from build_models import Cases
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from capamesh.cli.local_cluster import LocalCluster, Member
from capamesh.client import AsyncClient
from capamesh.protocol.oip import HEADER_LENGTH_NAME, decode_response, encode_request
from capamesh.protocol.tensors import Tensor

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "build" / "models"
CASES = ROOT / "build" / "cases"
NODES = 3
DOCUMENTED_HTTP = "127.0.0.1:8000"
"""The router's address in all documents: a network that is kept can be asked by them."""
SHOWN_CASES = 5
KILL_AT, DRAIN_AT = 0.3, 0.6
"""The parts of the stream that have been answered when a node is killed, and when another is drained."""
POLL_S = 0.02


@dataclass(slots=True)
class Stream:
    """The outcome of the stream of requests."""

    latencies_s: list[float] = field(default_factory=list)
    by_node: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wrong: int = 0
    out_of_rotation_s: float | None = None


async def classify(console: Console, url: str) -> bool:
    """Show real inputs with the expected answers beside what the network says; return whether all agree."""
    is_right = True
    async with AsyncClient(url) as client:
        for model in ("digits", "breast_cancer", "magika"):
            cases = Cases.load(CASES / f"{model}.npz")
            outputs = await client.infer(model, {cases.input: cases.rows})
            classes = np.argmax(outputs[cases.output], axis=1)
            right = int(np.sum(classes == cases.expected))
            table = Table(
                title=f"{model}: {right} of {len(classes)} as labelled (the model's accuracy)"
            )
            for column in ("input", "expected", "answer"):
                table.add_column(column)
            for index in range(min(SHOWN_CASES, len(classes))):
                table.add_row(
                    str(cases.titles[index]),
                    str(cases.names[cases.expected[index]]),
                    str(cases.names[classes[index]]),
                )
            console.print(table)
            is_right &= right >= 0.95 * len(classes)
    return is_right


async def watch_joins(console: Console, cluster: LocalCluster) -> None:
    """Say who joins and what they host, as the router hears of it."""
    known: dict[str, str] = {}
    names = {}
    async with AsyncClient(cluster.http_url) as client:
        while len([hosted for hosted in known.values() if hosted]) < NODES:
            for node in await client.nodes():
                peer = node["peer_id"]
                hosted = ", ".join(m["name"] for m in node["models"] if m["state"] == "ready")
                if known.get(peer) != hosted:
                    known[peer] = hosted
                    name = names.setdefault(peer, f"…{peer[-8:]}")
                    console.print(f"  {name} joined; hosts {hosted or 'nothing yet'}")
            await asyncio.sleep(POLL_S)


async def watch_dead(url: str, peer: str, stream: Stream) -> None:
    """Note how long after now the router stops offering requests to `peer`."""
    killed_s = time.monotonic()
    async with AsyncClient(url) as client:
        while True:
            nodes = {node["peer_id"]: node for node in await client.nodes()}
            if peer not in nodes or not any(link["is_usable"] for link in nodes[peer]["links"]):
                stream.out_of_rotation_s = time.monotonic() - killed_s
                return
            await asyncio.sleep(POLL_S)


async def run_stream(
    cluster: LocalCluster, count: int, concurrency: int, progress: Progress
) -> Stream:
    """Send `count` requests; kill one node and drain another on the way."""
    cases = Cases.load(CASES / "digits.npz")
    stream = Stream()
    killed, drained = cluster.nodes[0], cluster.nodes[1]
    bar = progress.add_task("requests", total=count)
    numbers = iter(range(count))
    watching: list[asyncio.Task[None]] = []
    events = {
        int(count * KILL_AT): (killed, signal.SIGKILL, "SIGKILL"),
        int(count * DRAIN_AT): (drained, signal.SIGTERM, "SIGTERM, drains"),
    }

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        row = number % len(cases.rows)
        buffers, header_length = encode_request(
            [Tensor.from_numpy(cases.input, cases.rows[row : row + 1])]
        )
        start = time.perf_counter()
        try:
            async with session.post(
                f"{cluster.http_url}/v2/models/digits/infer",
                data=b"".join(buffers),
                headers={HEADER_LENGTH_NAME: str(header_length)},
            ) as reply:
                body = await reply.read()
                if reply.status != 200:
                    stream.failures.append(f"{reply.status}: {body[:200].decode()}")
                    return
                length = reply.headers.get(HEADER_LENGTH_NAME)
                node = reply.headers["X-Capamesh-Node"]
        except (aiohttp.ClientError, TimeoutError) as error:
            stream.failures.append(repr(error))
            return
        stream.latencies_s.append(time.perf_counter() - start)
        stream.by_node.append((time.monotonic(), node))
        outputs = {
            tensor.name: tensor for tensor in decode_response(body, int(length or 0)).outputs
        }
        if expected_answers[row] != int(np.argmax(outputs[cases.output].to_numpy())):
            stream.wrong += 1

    async def worker(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if number in events:
                member, what, said = events[number]
                progress.console.print(f"  {number} requests sent: {member.name} gets {said}")
                if what == signal.SIGKILL:
                    watching.append(
                        asyncio.create_task(
                            watch_dead(cluster.http_url, member.status()["peer_id"], stream)
                        )
                    )
                member.signal(what)
            await one(session, number)
            progress.advance(bar)

    async with AsyncClient(cluster.http_url) as client:
        outputs = await client.infer("digits", {cases.input: cases.rows})
        expected_answers = np.argmax(outputs[cases.output], axis=1).tolist()
    timeout = aiohttp.ClientTimeout(total=30)
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(worker(session) for _ in range(concurrency)))
    for task in watching:
        await asyncio.wait_for(task, 30)
    await asyncio.wait_for(drained.wait(), 60)
    return stream


def report(console: Console, cluster: LocalCluster, stream: Stream, count: int) -> None:
    """Print what the stream showed."""
    peers = {member.status()["peer_id"]: member.name for member in cluster.nodes}
    half = int(len(stream.by_node) * KILL_AT)
    late = int(len(stream.by_node) * DRAIN_AT)
    shares = Table(title="share of requests by node")
    for column in ("node", "all three", "one killed", "one drained too"):
        shares.add_column(column, justify="right")
    parts = [stream.by_node[:half], stream.by_node[half:late], stream.by_node[late:]]
    counted = [Counter(node for _, node in part) for part in parts]
    for peer, name in peers.items():
        cells = (
            f"{100 * counts[peer] / max(1, len(part)):.0f} %"
            for counts, part in zip(counted, parts, strict=True)
        )
        shares.add_row(name, *cells)
    console.print(shares)
    p50, p99 = np.percentile(stream.latencies_s, [50, 99]) * 1000
    console.print(
        f"requests {count}, failed [bold]{len(stream.failures)}[/bold], wrong {stream.wrong}, "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, dead node out of rotation after "
        f"{stream.out_of_rotation_s if stream.out_of_rotation_s is None else round(stream.out_of_rotation_s, 3)} s"
    )
    for failure in stream.failures[:5]:
        console.print(f"  failed: {failure}")


async def check_drained(console: Console, member: Member) -> bool:
    """Return whether a node that was asked to stop did so in order."""
    code = await asyncio.wait_for(member.wait(), 60)
    console.print(f"{member.name} drained and ended with exit code {code}")
    return code == 0


async def demo(arguments: argparse.Namespace, console: Console) -> bool:
    """Run it all; return whether all of it held."""
    with tempfile.TemporaryDirectory(prefix="capamesh-demo-") as folder:
        http = DOCUMENTED_HTTP if arguments.keep else "127.0.0.1:0"
        cluster = LocalCluster(Path(folder), MODELS, NODES, http)
        console.rule("start-up: one router, three nodes, each with its mesh sidecar")
        async with cluster:
            console.print(f"router at {cluster.http_url}, data in {folder}")
            for member in cluster.nodes:
                console.print(f"  {member.name}: pid {member.pid}")
            await watch_joins(console, cluster)
            await cluster.wait_routable(NODES)
            console.rule("real inputs")
            is_right = await classify(console, cluster.http_url)
            console.rule(
                f"{arguments.requests} requests, {arguments.concurrency} at a time; two nodes go"
            )
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
                stream = await run_stream(
                    cluster, arguments.requests, arguments.concurrency, progress
                )
            report(console, cluster, stream, arguments.requests)
            is_drained = await check_drained(console, cluster.nodes[1])
            answered = len(stream.latencies_s)
            held = (
                is_right
                and is_drained
                and not stream.failures
                and stream.wrong == 0
                and answered == arguments.requests
                and stream.out_of_rotation_s is not None
            )
            verdict = "[green]all of it held[/green]" if held else "[red]NOT all of it held[/red]"
            console.print(verdict)
            if arguments.keep:
                console.rule("two nodes come in the places of those that went; Ctrl-C ends all")
                for _ in range(2):
                    await cluster.add_node()
                await cluster.wait_routable(NODES)
                console.print(f"capamesh nodes --router {cluster.http_url}")
                console.print(f"capamesh models --router {cluster.http_url}")
                console.print(f"curl {cluster.http_url}/v2/models/digits")
                stop = asyncio.Event()
                for number in (signal.SIGINT, signal.SIGTERM):
                    asyncio.get_running_loop().add_signal_handler(number, stop.set)
                await stop.wait()
            return held


def main() -> int:
    """Return 0 only if all of it held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave the cluster up until Ctrl-C")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--times", type=int, default=1, help="how often, each time anew")
    arguments = parser.parse_args()
    console = Console()
    for _ in range(arguments.times):
        if not asyncio.run(demo(arguments, console)):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
