"""Is Capamesh's router as cheap as other routers and proxies? Starts them side by side and loads them in turn.

    python benchmarks/peers.py [--only capamesh haproxy ...] [--connections 1 32 256] [--seconds 4] [--rounds 3]
                               [--quick] [--json FILE]

Needs wrk, the client of all. Each router stands before two upstreams that do next to nothing and answer with the same
bytes. A router that cannot be installed here gets a line that says why; what is installed lies under build/peers/.
The figure to compare is the CPU time of the router's processes for each request, which a busy machine disturbs least.
docs/explanation/benchmarks/peers.md says what each is set to and what the figures do not say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anchor_models
import numpy as np
import page_tables
from environments import NotInstalled
from machine import keep, machine, wait_quiet
from overhead import Case, build_picture_model
from peer_routers import CONTENDERS, Place, Router, capamesh, commit
from peer_tables import OWN, Cells, Turn, markdown, rows_of, show
from peer_upstreams import Reply, http_upstreams, make_certificates, write_answers
from processes import POLL_S, START_LIMIT_S, tree_cpu_s
from rich.console import Console
from rich.progress import Progress
from wrk import load, require_wrk

from capamesh.protocol.oip import HEADER_LENGTH_NAME

SEED = 20261127
CONNECTIONS = (1, 32, 256)
JSON_PATH = "/v1/completions"
"""The path of requests to routers that take nothing but JSON."""
WARM_UP_S = 1
QUIET_LIMIT_S = 300.0
"""The longest wait for a quiet machine before a turn: a run is too long to be lost to a short disturbance."""
MADE_BY = "python benchmarks/peers.py"
BINARY, JSON = "application/octet-stream", "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes that are sent again and again, and where to."""

    name: str
    path: str
    body: bytes
    header_length: int
    content_type: str


def cases() -> list[Case]:
    """Return the two requests as tensors: 1 KiB, and a picture of 600 KB."""
    draw = np.random.default_rng(SEED)
    return [
        Case("1 KiB", "mlp", "x", draw.random((4, 64), np.float32)),
        Case("600 KB", "picture", "image", draw.random((1, 3, 224, 224), np.float32)),
    ]


def requests_of(case: Case) -> tuple[Request, Request]:
    """Return a case's request in binary, and a JSON text of the same size."""
    body, header_length = case.body()
    path = f"/v2/models/{case.model}/infer"
    frame = len(json.dumps({"model": case.model, "prompt": ""}))
    text = json.dumps({"model": case.model, "prompt": "a" * (len(body) - frame)}).encode()
    return (
        Request(case.name, path, body, header_length, BINARY),
        Request(case.name, JSON_PATH, text, 0, JSON),
    )


async def ask(router: Router, request: Request) -> Reply:
    """Send a request once; ask again while the router finds its upstreams. SystemExit: it does not."""
    fields = {"Content-Type": request.content_type, HEADER_LENGTH_NAME: str(request.header_length)}
    seen = ""
    async with aiohttp.ClientSession() as session:
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while True:
                    url = router.url + request.path
                    async with session.post(url, data=request.body, headers=fields) as response:
                        body = await response.read()
                        if response.status == 200:
                            kept = ("Content-Type", HEADER_LENGTH_NAME)
                            known = {k: response.headers[k] for k in kept if k in response.headers}
                            return Reply(response.status, known, body)
                    seen = f"{response.status}: {body[:300]!r}"
                    await asyncio.sleep(POLL_S)
        except TimeoutError as exc:
            raise SystemExit(f"{router.url}{request.path} answers {seen}") from exc


async def answers_of(folder: Path) -> dict[str, Reply]:
    """Return what a router with link upstreams answers, by path: HTTP upstreams answer the same."""
    replies: dict[str, Reply] = {}
    place = Place(folder, [], [], folder, folder)
    async with capamesh(place) as router:
        for case in cases():
            binary, _ = requests_of(case)
            replies[binary.path] = await ask(router, binary)
    small = replies[f"/v2/models/{cases()[0].model}/infer"]
    replies[JSON_PATH] = Reply(200, {"Content-Type": JSON}, small.body)
    return replies


async def hit(router: Router, request: Request, connections: int, seconds: int) -> Turn:
    """Load one contender."""
    before_s = tree_cpu_s(router.pid) if router.pid else 0.0
    seen = await load(
        router.url + request.path,
        request.body,
        request.header_length,
        connections=connections,
        seconds=seconds,
        content_type=request.content_type,
    )
    return Turn(seen, tree_cpu_s(router.pid) - before_s if router.pid else None)


async def measure(names: Sequence[str], options: argparse.Namespace, progress: Progress) -> Cells:
    """Start the contenders and load them in turn."""
    cells: Cells = {}
    task = progress.add_task("starting", total=None)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = folder / "models"
        build_picture_model(models)
        (models / "mlp" / "1").mkdir(parents=True)
        (models / "mlp" / "1" / "model.onnx").write_bytes(anchor_models.mlp().SerializeToString())
        (folder / "answers").mkdir()
        replies = await answers_of(folder / "answers")
        file = write_answers(replies, folder)
        certificates = make_certificates(folder / "certificates")
        place = Place(
            folder,
            await stack.enter_async_context(http_upstreams(file, folder)),
            await stack.enter_async_context(http_upstreams(file, folder, certificates)),
            certificates,
            models,
        )
        running: dict[str, tuple[Router, list[Request]]] = {}
        for name in names:
            progress.update(task, description=f"starting {name}")
            contender = CONTENDERS[name]
            router = await stack.enter_async_context(contender.start(place))
            requests = [requests_of(case)[contender.is_json] for case in cases()]
            running[name] = router, requests
            await check(name, router, requests, replies)
            for request in requests:
                await hit(router, request, max(options.connections), WARM_UP_S)
        turns = [
            (index, connections, turn)
            for turn in range(options.rounds)
            for index in range(len(cases()))
            for connections in options.connections
        ]
        progress.update(task, total=len(turns) * len(names))
        for index, connections, turn in turns:
            order = [*names[turn % len(names) :], *names[: turn % len(names)]]
            for name in order:
                router, requests = running[name]
                request = requests[index]
                what = f"round {turn + 1}, {request.name}, c={connections}, {name}"
                progress.update(task, description=what)
                if not options.quick:
                    await wait_quiet(QUIET_LIMIT_S)
                seen = await hit(router, request, connections, options.seconds)
                cells.setdefault((request.name, connections, name), []).append(seen)
                progress.advance(task)
        for name, (router, requests) in running.items():
            await check(name, router, requests, replies)
        progress.update(task, description="stopping")
    return cells


async def check(
    name: str, router: Router, requests: Sequence[Request], replies: dict[str, Reply]
) -> None:
    """Ask once; exit when an answer is not of the size that all answers have."""
    for request in requests:
        expected, given = replies[request.path], await ask(router, request)
        if len(given.body) != len(expected.body):
            raise SystemExit(
                f"{name} answers {request.path} with {len(given.body)} bytes, not {len(expected.body)}: {given.body[:200]!r}"
            )


def installed(names: Sequence[str], console: Console) -> tuple[dict[str, str], dict[str, str]]:
    """Install what can be; return the versions of those, and the reasons why others cannot be."""
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in names:
        console.print(f"looking after {name}")
        try:
            versions[name] = CONTENDERS[name].version()
        except NotInstalled as exc:
            missing[name] = str(exc)
    return versions, missing


def main() -> int:
    """Measure, print, keep; fail when Capamesh's router failed a request before link upstreams."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--connections", nargs="+", type=int, default=list(CONNECTIONS))
    parser.add_argument("--seconds", type=int, default=4, help="of one contender in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="a second each, one round, and no waiting for quiet"
    )
    parser.add_argument(
        "--json", type=Path, help="where to write the figures, in place of results/"
    )
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1, 1
    require_wrk()
    console = Console(width=190 if not sys.stdout.isatty() else None)
    versions, missing = installed(options.only, console)
    with Progress(console=console) as progress:
        cells = asyncio.run(measure(list(versions), options, progress))
    rows = rows_of(cells, [case.name for case in cases()])
    show(rows, missing, console)
    figures: dict[str, Any] = {
        "seed": SEED,
        "commit": commit(),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "cores": sorted(os.sched_getaffinity(0)),
        "routers": {
            name: {"version": version, "upstreams": CONTENDERS[name].upstreams}
            for name, version in versions.items()
        },
        "not_measured": missing,
        "rows": rows,
    }
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    elif not options.quick:
        page = page_tables.write("peers.md", MADE_BY, markdown(figures, len(figures["cores"])))
        console.print(f"kept in {keep('peers', figures)} and {page}")
    return 1 if any(row["failed"] for row in rows if row["router"] == OWN) else 0


if __name__ == "__main__":
    sys.exit(main())
