"""Is generation through router and node as fast as the decoder's own loop, and ahead of llama.cpp's server? All side by side, in turns.

    python benchmarks/generation.py build/language-models/smollm2/1 --llama SERVER --gguf MODEL [--only callers beside again] [--rounds 5]

The folder is a decoder's, of `capamesh model import-llm`. `--llama` is llama.cpp's `llama-server` and `--gguf` the same weights for it, in its
format of 8 bits; without them only the bare loop is beside us. docs/explanation/benchmarks/generation.md says how each is made and set.
Ours is asked through a router and a node with TLS between them, by server-sent events, as llama.cpp's server is; clients share
the two cores. A figure is the median of rounds, a ratio that of one round's two sides. `--only` measures a part, and keeps the figures of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop
from generation_clients import Caller, request_of
from machine import RESULTS, keep, wait_quiet
from page_tables import write
from processes import free_port, running
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from engine_link import load_of, node_link  # noqa: E402 - found by the path set above

from capamesh.cli.local_cluster import LocalCluster  # noqa: E402 - likewise
from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder  # noqa: E402 - likewise
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots  # noqa: E402 - likewise
from capamesh.protocol.links.link import Link  # noqa: E402 - likewise

SEED: Final = 20_260_801
THREADS: Final = 2
SLOTS: Final = 8
LENGTH: Final = 1024
PROMPT, ANSWER = 64, 96
LONG: Final = 512
AGAIN: Final = 400
TOKENS: Final = (1_000, 40_000)
"""The tokens that prompts are made of: texts of any kind."""
OURS, LLAMA, BARE = "capamesh", "llama.cpp", "bare loop"
LEAVING: Final = 50
"""Clients that leave within an answer, streamed and not."""
LOOK_S: Final = 0.001
"""Seconds between two looks at a node's load: uvloop waits for whole milliseconds, and a link bears 5,000 looks a second."""
PARTS: Final = ("callers", "beside", "again", "gone")
BARS: Final[dict[str, tuple[str, float]]] = {
    "tokens_per_s_8 / bare loop": (">=", 0.90),
    "tokens_per_s_1 / llama.cpp": (">=", 0.85),
    "tokens_per_s_4 / llama.cpp": (">=", 1.3),
    "tokens_per_s_8 / llama.cpp": (">=", 1.3),
    "gap_ms_8 / llama.cpp": ("<=", 0.70),
    "worst_gap_ms": ("<=", 100.0),
    "again_ms": ("<=", 20.0),
    "gone_streamed_worst_ms": ("<=", 5.0),
    "gone_whole_worst_ms": ("<=", 5.0),
}
"""The sign and the number of what is asked of each figure and ratio."""
Note = Callable[[str, str, float], None]
"""Takes who was measured, the name of a figure, and the figure."""


class Server:
    """A server that is asked over HTTP."""

    def __init__(
        self, address: tuple[str, int], model: str, rng: random.Random, **more: object
    ) -> None:
        self._address = address
        self._model = model
        self._rng = rng
        self._more = more

    def prompt(self, length: int) -> list[int]:
        """Return tokens by chance, so that no prompt begins as another."""
        return [self._rng.randrange(*TOKENS) for _ in range(length)]

    def caller(self) -> Caller:
        """Return a caller who has not asked yet."""
        return Caller(self._address, self._model, **self._more)

    async def callers(self, count: int) -> tuple[float, float]:
        """Return the tokens a second of so many callers at once, prompts included, and the median gap while all of them get tokens."""
        callers = [self.caller() for _ in range(count)]
        began = time.perf_counter()
        await asyncio.gather(*(each.ask(self.prompt(PROMPT), ANSWER) for each in callers))
        took = time.perf_counter() - began
        since, until = (
            max(each.times[0] for each in callers),
            min(each.times[-1] for each in callers),
        )
        gaps = [gap for each in callers for gap in each.gaps_ms(since, until)]
        return count * ANSWER / took, statistics.median(gaps)

    async def beside(self) -> tuple[float, float]:
        """Return the longest gap of four callers while a prompt of 512 tokens comes, and the time to that one's first token, in ms."""
        callers, begun = [self.caller() for _ in range(4)], [asyncio.Event() for _ in range(4)]
        tasks = [
            asyncio.ensure_future(each.ask(self.prompt(32), 200, event))
            for each, event in zip(callers, begun, strict=True)
        ]
        for event in begun:
            await event.wait()
        long = self.caller()
        await long.ask(self.prompt(LONG), 2)
        await asyncio.gather(*tasks)
        gaps = [gap for each in callers for gap in each.gaps_ms(long.started, long.times[0])]
        return max(gaps), long.first_ms

    async def again(self) -> tuple[float, float]:
        """Return the times to the first token of a prompt of 400 tokens, new and again, in ms."""
        prompt = self.prompt(AGAIN)
        first, again = self.caller(), self.caller()
        await first.ask(prompt, 4)
        await again.ask(prompt, 4)
        return first.first_ms, again.first_ms

    async def gone(self, link: Link, step_ms: float, *, is_streamed: bool) -> float:
        """Return the milliseconds from a client's leaving to its slot's being free, less those of a step, which may have begun; `link` is the node's."""
        host, port = self._address

        async def until(is_so: Callable[[int], bool]) -> None:
            while not is_so((await load_of(link, self._model)).held_tokens):  # noqa: ASYNC110 - nodes tell who asks
                await asyncio.sleep(LOOK_S)

        await until(lambda held: held == 0)
        _, writer = await asyncio.open_connection(host, port)
        prompt = self.prompt(PROMPT)
        writer.write(request_of(host, self._model, prompt, LENGTH, stream=is_streamed))
        await until(lambda held: held > PROMPT + 8)
        await asyncio.sleep(self._rng.uniform(0.0, step_ms) / 1e3)
        left = time.perf_counter()
        writer.close()
        await until(lambda held: held == 0)
        return (time.perf_counter() - left) * 1e3 - step_ms


class BareLoop:
    """A loop of runs of the decoder in this process, with nothing around it."""

    def __init__(self, folder: Path, prompt: Callable[[int], list[int]]) -> None:
        self._slots = DecoderSlots(
            read_decoder_folder(folder), count=SLOTS, length=LENGTH, threads=THREADS
        )
        self._prompt = prompt

    def callers(self, count: int) -> tuple[float, float]:
        """Return the tokens a second over the lengths that callers have, prompts included, and the median of a decoding step."""
        slots = self._slots
        began = time.perf_counter()
        for slot in range(count):
            slots.truncate(slot, 0)
            slots.extend(slot, self._prompt(PROMPT), wants_logits=True)
        took: list[float] = []
        tokens = [500] * count
        for _ in range(ANSWER - 1):
            step = time.perf_counter()
            tokens = slots.decode(tokens).argmax(-1).tolist()
            took.append((time.perf_counter() - step) * 1e3)
        return count * ANSWER / (time.perf_counter() - began), statistics.median(took)


async def start_ours(
    stack: AsyncExitStack, folder: Path, rng: random.Random
) -> tuple[Server, LocalCluster]:
    """Start a router and a node with the model of `folder`, which is that of one version."""
    scratch = stack.enter_context(tempfile.TemporaryDirectory())
    models = Path(scratch) / "models"
    shutil.copytree(folder.parent, models / folder.parent.name)
    cluster = await stack.enter_async_context(
        LocalCluster(Path(scratch) / "cluster", models, nodes=1)
    )
    await cluster.wait_routable(1)
    host, _, port = cluster.http_url.removeprefix("http://").partition(":")
    return Server((host, int(port)), folder.parent.name, rng), cluster


async def start_llama(
    stack: AsyncExitStack, program: Path, gguf: Path, rng: random.Random
) -> Server:
    """Start llama.cpp's server with as many slots and threads as a node has."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    port = free_port()
    command = [str(program), "-m", str(gguf), "-c", str(SLOTS * LENGTH), "-np", str(SLOTS)]
    command += ["-t", str(THREADS), "-tb", str(THREADS), "--host", "127.0.0.1", "--port", str(port)]

    async def is_ready() -> bool:
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.get(f"http://127.0.0.1:{port}/health") as answer,
            ):
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    await stack.enter_async_context(running(command, {}, scratch / "log", is_ready))
    return Server(("127.0.0.1", port), "", rng, cache_prompt=True)


async def measure(options: argparse.Namespace, note: Note) -> None:
    """Start all, and measure them in turn."""
    rng = random.Random(SEED)  # noqa: S311 - prompts, no secrets
    async with AsyncExitStack() as stack:
        ours, cluster = await start_ours(stack, options.folder, rng)
        servers = {OURS: ours}
        if options.llama is not None:
            servers[LLAMA] = await start_llama(stack, options.llama, options.gguf, rng)
        bare = BareLoop(options.folder, ours.prompt) if "callers" in options.only else None
        for server in servers.values():
            await server.callers(SLOTS)
        if "gone" in options.only:
            await _leaving(ours, cluster, note)
        for _ in range(options.rounds):
            if bare is not None:
                await _callers_round(servers, bare, note)
            for who, server in servers.items():
                await wait_quiet()
                if "beside" in options.only:
                    worst_ms, first_ms = await server.beside()
                    note(who, "worst_gap_ms", worst_ms)
                    note(who, "beside_first_ms", first_ms)
                if "again" in options.only:
                    new_ms, again_ms = await server.again()
                    note(who, "new_ms", new_ms)
                    note(who, "again_ms", again_ms)


async def _leaving(ours: Server, cluster: LocalCluster, note: Note) -> None:
    """Have clients leave within their answers, one after the other."""
    _, step_ms = await ours.callers(1)
    async with node_link(cluster, cluster.nodes[0]) as link:
        for name, is_streamed in (("streamed", True), ("whole", False)):
            took = [await ours.gone(link, step_ms, is_streamed=is_streamed) for _ in range(LEAVING)]
            note(OURS, f"gone_{name}_ms", statistics.median(took))
            note(OURS, f"gone_{name}_worst_ms", max(took))


async def _callers_round(servers: dict[str, Server], bare: BareLoop, note: Note) -> None:
    for count in (1, 4, 8):
        for who in (*servers, BARE):
            await wait_quiet()
            speed, gap_ms = (
                bare.callers(count) if who == BARE else await servers[who].callers(count)
            )
            note(who, f"tokens_per_s_{count}", speed)
            note(who, f"gap_ms_{count}", gap_ms)


def figures_of(noted: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Return the medians of all figures, ours by their names alone, and ours over others' as `NAME / WHO`."""
    found: dict[str, float] = {}
    for name, ours in noted[OURS].items():
        found[name] = statistics.median(ours)
        for who, others in noted.items():
            if who != OURS and name in others:
                found[f"{name} of {who}"] = statistics.median(others[name])
                ratios = [mine / theirs for mine, theirs in zip(ours, others[name], strict=True)]
                found[f"{name} / {who}"] = statistics.median(ratios)
    return found


def kept_figures(noted: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return the figures of all parts, those that were not measured now as they were kept."""
    file = RESULTS / "generation.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    kept.pop("machine", None)
    return {**kept, **figures_of(noted)}


def table_of(figures: dict[str, float]) -> str:
    """Return the table of the page, in Markdown: a line a figure, with the others beside it and what is asked."""
    lines = [
        "| figure | Capamesh | llama.cpp | ratio | bare loop | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name, seen in figures.items():
        if " " not in name:
            cells = [f"{seen:.1f}"]
            for who in (LLAMA, BARE):
                other, ratio = figures.get(f"{name} of {who}"), figures.get(f"{name} / {who}")
                cells += (
                    ["", ""] if other is None or ratio is None else [f"{other:.1f}", f"{ratio:.2f}"]
                )
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def show(figures: dict[str, float]) -> None:
    """Print what was asked and seen."""
    table = Table("figure", "seen", "bar", "")
    for name, seen in figures.items():
        sign, bar = BARS.get(name, ("", 0.0))
        is_held = seen >= bar if sign == ">=" else seen <= bar
        verdict = "" if not sign else "held" if is_held else "[red]MISSED[/red]"
        table.add_row(name, f"{seen:.2f}", f"{sign} {bar:g}" if sign else "", verdict)
    Console().print(table)


def main() -> None:
    """Measure, print a table, keep the figures and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--llama", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trial", action="store_true", help="keep nothing and write no page")
    options = parser.parse_args()
    if (options.llama is None) != (options.gguf is None):
        parser.error("--llama and --gguf belong together: give both or neither")
    noted: dict[str, dict[str, list[float]]] = {}

    def note(who: str, name: str, value: float) -> None:
        noted.setdefault(who, {}).setdefault(name, []).append(value)
        print(f"{who}: {name} {value:.2f}", flush=True)

    uvloop.run(measure(options, note))
    show(figures_of(noted))
    if not options.trial:
        figures = kept_figures(noted)
        keep("generation", figures)
        write("generation.md", "generation.py", table_of(figures))


if __name__ == "__main__":
    main()
