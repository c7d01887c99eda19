"""Measures how soon a model is answered again once what had filled, frozen, killed or broken it is over: real processes, a row a state.

    python benchmarks/healing.py [--rows router] [--only crowd] [--language-models build/language-models]

Each state is set up, its cause ends, and from then on one caller asks: every 50 ms for five seconds in the rows of the router, until
there is an answer in those of a node that does again what it could not. `first` is the time from the end of the cause to the first
answer, `last failure` to the last request of the five seconds that was not answered. The bar: the first within a second, where nothing else
is wrong (processes that start anew take their time for that).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from machine import keep
from report import Report
from rich.console import Console

from capamesh.cli.local_cluster import LocalCluster
from capamesh.cli.member import Member

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))  # before `benchmarks/chaos.py`
from chaos import frozen, send_signal, slowed, worker_pids  # noqa: E402 - found by the line above
from patience import until  # noqa: E402 - likewise

POLICIES = ("prequal", "p2c", "least-request", "peak-ewma", "affinity", "prefix")
EVERY_S = 0.05
WATCHED_S = 5.0
FIRST_S = 1.0
RESTARTED_S = 10.0
"""Seconds within which a model is answered again whose processes start anew (guess: a load takes seconds)."""
SHARE_WATCHED_S = 30.0
SLOWED_TO = 0.05
CALLERS = 8
LARGE_ROWS = 40
"""More than a node measures of magika at load."""
POLL_S = 0.02
ROUTER, NODES = "router", "nodes"


def body_of(model: str, timeout_s: float, rows: int = 1) -> bytes:
    """Return the JSON of a request, without a time of its own where `timeout_s` is 0."""
    parameters = {"timeout": round(timeout_s * 1e6)} if timeout_s else {}
    name, datatype, width = ("X", "FP32", 64) if model == "digits" else ("bytes", "INT32", 2048)
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": [rows, width],
        "data": [0] * rows * width,
    }
    return json.dumps({"parameters": parameters, "inputs": [tensor]}).encode()


class Bed:
    """A running network, and whoever asks it."""

    def __init__(
        self, cluster: LocalCluster, models: Path, session: aiohttp.ClientSession, policy: str
    ) -> None:
        self.cluster = cluster
        self.models = models
        self.session = session
        self._headers = {"X-Capamesh-Policy": policy} if policy else {}
        if policy == "affinity":
            self._headers["X-Capamesh-Affinity"] = "one"

    async def ask(self, model: str, body: bytes) -> tuple[int, str]:
        """Send a request; return its status and the node that answered."""
        url = f"{self.cluster.http_url}/v2/models/{model}/infer"
        try:
            async with self.session.post(url, data=body, headers=self._headers) as reply:
                await reply.read()
                return reply.status, reply.headers.get("X-Capamesh-Node", "")
        except aiohttp.ClientError:
            return 0, ""

    async def crowd(self, model: str, count: int, body: bytes, after_s: float) -> None:
        """Let so many callers ask again and again, and leave after that time whatever was answered."""

        async def caller() -> None:
            while True:
                await self.ask(model, body)

        tasks = [asyncio.create_task(caller()) for _ in range(count)]
        await asyncio.wait(tasks, timeout=after_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answered(self, rows: int = 1) -> float:
        """Ask magika until there is an answer; return after how many seconds."""
        began_s = time.monotonic()
        body = body_of("magika", 0.0, rows)

        async def is_answered() -> bool:
            return (await self.ask("magika", body))[0] == 200

        await until(is_answered, every_s=POLL_S)
        return time.monotonic() - began_s

    async def chat(self, body: dict[str, Any]) -> int:
        """Ask a language model and read all that it says."""
        url = f"{self.cluster.http_url}/v1/chat/completions"
        async with self.session.post(url, json=body) as reply:
            await reply.read()
            return reply.status

    async def healed(self, ask: Callable[[], Awaitable[int]]) -> dict[str, float]:
        """Ask every 50 ms from now, the end of the cause, on; return when the first answer came and when the last failure did."""
        began_s = time.monotonic()
        answers: list[float] = []
        failures: list[float] = []

        async def one() -> None:
            status = await ask()
            (answers if status == 200 else failures).append(time.monotonic() - began_s)

        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() < began_s + WATCHED_S:
                tasks.create_task(one())
                await asyncio.sleep(EVERY_S)
        first_s = min(answers, default=float("inf"))
        return {
            "first_s": first_s,
            "last_failure_s": max(failures, default=0.0),
            "failures": len(failures),
            "asked": len(answers) + len(failures),
        }


@dataclass(frozen=True, slots=True)
class State:
    """One row: how it comes about, and how long it may last."""

    name: str
    run: Callable[[Bed], Awaitable[dict[str, float]]]
    nodes: int = 1
    policy: str = ""
    bar_s: float = FIRST_S
    models: Path | None = None
    """A folder of language models; None: the sample models."""
    rows: str = ROUTER
    """The rows that it is among; a node of `NODES` has magika alone, in a folder of its own."""


def crowd(
    model: str, count: int, stays_s: float, *, crowd_s: float, probe_s: float
) -> Callable[[Bed], Awaitable[dict[str, float]]]:
    """Return a state that callers make who all come at once and leave; they allow `crowd_s` (0: any time), who comes then `probe_s`."""

    async def run(bed: Bed) -> dict[str, float]:
        await bed.crowd(model, count, body_of(model, crowd_s), stays_s)
        body = body_of(model, probe_s)

        async def ask() -> int:
            return (await bed.ask(model, body))[0]

        return await bed.healed(ask)

    return run


async def digits(bed: Bed) -> int:
    """Ask for one row with a second's time; return the status."""
    return (await bed.ask("digits", body_of("digits", 1.0)))[0]


async def stopped(bed: Bed) -> dict[str, float]:
    """All workers stand still for eight seconds while callers come."""
    with frozen([pid for node in bed.cluster.nodes for pid in worker_pids(node)]):
        await bed.crowd("digits", 50, body_of("digits", 0.5), 8.0)
    return await bed.healed(lambda: digits(bed))


async def killed(bed: Bed) -> dict[str, float]:
    """All workers end at once."""
    send_signal([pid for node in bed.cluster.nodes for pid in worker_pids(node)], signal.SIGKILL)
    return await bed.healed(lambda: digits(bed))


@asynccontextmanager
async def asking(bed: Bed) -> AsyncIterator[list[tuple[float, str]]]:
    """Let callers ask without a pause meanwhile; yield when and by which node each was answered."""
    seen: list[tuple[float, str]] = []

    async def caller() -> None:
        body = body_of("digits", 0.0)
        while True:
            status, node = await bed.ask("digits", body)
            if status == 200:
                seen.append((time.monotonic(), node))

    tasks = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def peer_of(node: Member) -> str:
    """Return a node's name in the network."""
    return str(node.status()["peer_id"])


async def share_is_back(bed: Bed, hurt: Callable[[Member], Awaitable[None]]) -> dict[str, float]:
    """Hurt one of two nodes while callers ask; return when it has a quarter of the answers again from the end of that on."""
    node = bed.cluster.nodes[0]
    async with asking(bed) as seen:
        await asyncio.sleep(3.0)
        await hurt(node)
        ended_s = time.monotonic()
        while time.monotonic() < ended_s + SHARE_WATCHED_S:
            await asyncio.sleep(0.25)
            since_s = max(ended_s, time.monotonic() - 1.0)
            of_late = [by for at_s, by in seen if at_s > since_s]
            if of_late and of_late.count(peer_of(node)) >= len(of_late) / 4:
                break
    return {"first_s": time.monotonic() - ended_s, "answers": len(seen)}


async def failed_once(bed: Bed) -> dict[str, float]:
    """One of two nodes loses its worker, which is there again a moment later."""

    async def hurt(node: Member) -> None:
        (pid,) = worker_pids(node)
        send_signal([pid], signal.SIGKILL)
        await until(lambda: worker_pids(node) not in ([], [pid]))

    return await share_is_back(bed, hurt)


async def slow_once(bed: Bed) -> dict[str, float]:
    """One of two nodes is twenty times as slow for ten seconds."""

    async def hurt(node: Member) -> None:
        with slowed(dict.fromkeys(worker_pids(node), SLOWED_TO)):
            await asyncio.sleep(10.0)

    return await share_is_back(bed, hurt)


def chats(count: int, max_tokens: int) -> Callable[[Bed], Awaitable[dict[str, float]]]:
    """Return a state that so many streamed chats make whose clients leave after six seconds; 0 `max_tokens` are not named."""

    async def run(bed: Bed) -> dict[str, float]:
        async with bed.session.get(f"{bed.cluster.http_url}/v1/models") as reply:
            model = (await reply.json())["data"][0]["id"]
        said = {"model": model, "messages": [{"role": "user", "content": "Tell a long story."}]}
        most = {"max_tokens": max_tokens} if max_tokens else {}
        tasks = [
            asyncio.create_task(bed.chat({**said, **most, "stream": True})) for _ in range(count)
        ]
        await asyncio.wait(tasks, timeout=6.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await bed.healed(lambda: bed.chat({**said, "max_tokens": 1}))

    return run


async def killed_at_work(bed: Bed) -> dict[str, float]:
    """Kill the worker from outside while large requests run; return for how much longer than before such take once it is back."""
    alone_s = await bed.answered(LARGE_ROWS)
    body = body_of("magika", 0.0, LARGE_ROWS)
    running = [asyncio.create_task(bed.ask("magika", body)) for _ in range(4)]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    send_signal(worker_pids(bed.cluster.nodes[0]), signal.SIGKILL)
    await asyncio.gather(*running)
    await bed.answered()
    return {"first_s": max(0.0, await bed.answered(LARGE_ROWS) - alone_s)}


async def start_again(bed: Bed) -> Member:
    """Kill all processes of the node and start it anew."""
    node = bed.cluster.nodes[0]
    node.signal(signal.SIGKILL)
    await node.wait()
    again = await Member.start(
        node.name,
        node.data_folder,
        ("node", "run", "--models", str(bed.models), "--name", node.name),
        bed.cluster.folder / f"{node.name}.token",
    )
    bed.cluster.nodes[0] = again
    return again


async def restarted(bed: Bed) -> dict[str, float]:
    """Return how long after the start of a node that was killed its model is answered."""
    await start_again(bed)
    return {"first_s": await bed.answered()}


async def mended(bed: Bed) -> dict[str, float]:
    """Have a node find a model's file broken; return how long after it is mended the model is answered."""
    (file,) = (bed.models / "magika").rglob("*.onnx")
    content = file.read_bytes()
    file.write_bytes(b"broken")
    node = await start_again(bed)
    await until(lambda: "failed" in json.dumps(node.status().get("models", [])))
    file.write_bytes(content)
    return {"first_s": await bed.answered()}


def states(language_models: Path) -> list[State]:
    """Return all states."""
    found = [
        State(
            f"2,000 at once with 1 s, {policy}",
            crowd("digits", 2000, 3.0, crowd_s=1.0, probe_s=1.0),
            policy=policy,
        )
        for policy in POLICIES
    ]
    for policy in ("prequal", "p2c"):
        for probe_s in (0.06, 0.25, 0.0):
            allowed = f"{probe_s * 1e3:g} ms" if probe_s else "any time"
            found.append(
                State(
                    f"300 leave a model they filled for 6 s; then {allowed}, {policy}",
                    crowd("magika", 300, 6.0, crowd_s=0.0, probe_s=probe_s),
                    policy=policy,
                )
            )
    found += [
        State("all workers frozen for 8 s", stopped, nodes=2),
        State("all workers killed", killed, nodes=2, bar_s=RESTARTED_S),
    ]
    for policy in ("prequal", "p2c", "peak-ewma"):
        found += [
            State(f"share after one failure, {policy}", failed_once, 2, policy, bar_s=RESTARTED_S),
            State(f"share after 10 s at 1/20, {policy}", slow_once, 2, policy, SHARE_WATCHED_S),
        ]
    if language_models.is_dir():
        found += [
            State("30 chats without max_tokens leave", chats(30, 0), models=language_models),
            State("8 chats of 2,000 tokens leave", chats(8, 2000), models=language_models),
        ]
    at_work = "worker killed from outside while large requests ran"
    found += [
        State(at_work, killed_at_work, rows=NODES),
        State("node killed and started anew", restarted, bar_s=RESTARTED_S, rows=NODES),
        State("model's file away and back", mended, bar_s=RESTARTED_S, rows=NODES),
    ]
    return found


async def measure(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """Note the figures of all states, each in a network of its own."""
    for number, state in enumerate(states(options.language_models)):
        if options.only not in state.name or options.rows not in ("", state.rows):
            continue
        connector = aiohttp.TCPConnector(limit=0)
        here, models = folder / str(number), state.models or options.models
        if state.rows == NODES:
            models = here / "models"
            shutil.copytree(options.models / "magika", models / "magika")
        async with (
            LocalCluster(here / "cluster", models, nodes=state.nodes) as cluster,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            await cluster.wait_routable(state.nodes)
            bed = Bed(cluster, models, session, state.policy)
            seen = await state.run(bed)
        report.bar(state.name, "first, s", seen["first_s"], state.bar_s)
        report.note(state.name, **seen)
        print(f"{state.name}: {seen}", flush=True)


def main() -> int:
    """Measure, show and keep the figures; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="states whose name has this")
    parser.add_argument("--rows", default="", choices=[ROUTER, NODES], help="these rows alone")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    parser.add_argument("--language-models", type=Path, default=ROOT / "build" / "language-models")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(options, Path(name), report))
    report.show("from the end of a cause to the first answer", Console(width=120))
    keep("healing", {"rows": options.rows, "only": options.only, **report.figures})
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
