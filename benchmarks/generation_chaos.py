"""Asks whether generated answers survive their node: real processes, a node killed or frozen under 16 streams, again and again.

`python benchmarks/generation_chaos.py [--rounds 60] [--had 24] [--seed N] [--model DIR] [--streams 16] [--greedy] [--folder DIR] [--keep]`. A router and two nodes serve two tiny language models,
or the one in the folder that `make language-model` or `capamesh model import` made. In each round
one node makes 16 answers, each drawn with a seed of its own, or with `--greedy` the likeliest without any, when it is killed, frozen or told to end. The other node goes on with
them, and each stream must end with the text of the same request undisturbed. The pause of a stream is the longest time without a token
from then on; it is held against the time in which as many answers that begin together at the other node, just before the round, get their first tokens behind prompts that are longer by what was had. The node that was hurt comes back
for the next round, in which the other is hurt. Pauses are times of the clock: they say something on a machine that does nothing else.

What was seen of each round stays in the folder, and a second run with the same folder does only the rounds that are missing: 60 take nine minutes.
`--keep` writes the figures and their table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp
import page_tables
from machine import keep
from report import Report
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from chaos import own_pids, send_signal  # noqa: E402 - found by the path set above, as all of these
from clusters import Cluster, peer_of  # noqa: E402
from patience import until  # noqa: E402
from tiny_llama import Variant, gguf, write_decoder_folder  # noqa: E402

from capamesh.cli.member import Member  # noqa: E402

SEED: Final = 20261128
ROUNDS: Final = 60
MODELS: Final = ("first", "second")
"""Two models, for a node has eight slots for each."""
STREAMS: Final = 16
TOKENS: Final = 1500
"""The tokens of an answer, which takes longer than a round's preparations."""
CONTEXT: Final = 4096
HAD: Final = 24
"""Each stream has so many tokens before the node is hurt. The other node runs them as they came, so that more of them make longer pauses."""
KILLED, FROZEN, DRAINED = "killed", "frozen", "drained"
KINDS: Final = (KILLED, DRAINED, FROZEN)
SIGNALS: Final = {KILLED: signal.SIGKILL, FROZEN: signal.SIGSTOP, DRAINED: signal.SIGTERM}
SILENCE_S: Final = {KILLED: 0.0, DRAINED: 0.0, FROZEN: 2.0}
"""Seconds of silence after which a node that is there, and says nothing, is given up: part of a pause that is meant to be."""
ADDED_S: Final = 1.0
"""The most that a pause may take beyond that, and beyond the time until as many answers behind as many tokens have begun."""
MADE_BY: Final = "generation_chaos.py"
PAGE: Final = "generation.md"


@dataclass(frozen=True)
class Asked:
    """What is asked in all rounds."""

    models: tuple[str, ...]
    streams: int
    tokens: int
    is_greedy: bool
    had: int


@dataclass
class Stream:
    """One answer as its client sees it."""

    model: str
    number: int
    asked: Asked
    more: int = 0
    """The words that its prompt is longer by."""
    text: str = ""
    times: list[float] = field(default_factory=list[float])
    """The times at which tokens came."""
    resumed_s: list[float] = field(default_factory=list[float])
    """The times at which the router said that another node is asked to go on."""
    error: str = ""
    is_done: bool = False
    node: str = ""

    def body(self) -> dict[str, Any]:
        """Return what is asked."""
        words = f"What do people remember of the place with the number {self.number}?"
        if self.more:
            words = f"{self.more}, {self.number}: {'on ' * self.more}{words}"
        manner = {"temperature": 1, "seed": 1000 + self.number}
        if self.asked.is_greedy:
            manner = {"temperature": 0}
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": self.asked.tokens,
            **manner,
            "ignore_eos": True,
            "stream": True,
        }

    async def run(self, client: aiohttp.ClientSession, url: str) -> None:
        """Ask, and take what comes to the end; an end that is none is an `error`."""
        try:
            async with client.post(f"{url}/v1/chat/completions", json=self.body()) as answer:
                if answer.status != 200:
                    self.error = f"{answer.status}: {(await answer.text())[:300]}"
                    return
                self.node = answer.headers.get("X-Capamesh-Node", "")
                async for line in answer.content:
                    self._take(line.decode().strip())
        except (aiohttp.ClientError, TimeoutError) as exc:
            self.error = repr(exc)[:300]

    def pause_s(self, since_s: float) -> float:
        """Return the longest time without a token after that instant."""
        began_s, ended_s = self._pause(since_s)
        return ended_s - began_s

    def told(self, since_s: float) -> str:
        """Return of what its pause after that instant was made, in seconds from then on."""
        began_s, ended_s = self._pause(since_s)
        had = sum(at <= began_s for at in self.times)
        resumed = ", ".join(f"{at - since_s:.2f}" for at in self.resumed_s) or "never"
        return (
            f"{self.model} {self.number}: {had} parts until {began_s - since_s:.2f} s, another node was asked at"
            f" {resumed}, the next part came at {ended_s - since_s:.2f} s"
        )

    def _pause(self, since_s: float) -> tuple[float, float]:
        """Return the beginning and the end of the longest time without a token after that instant."""
        last = max((at for at in self.times if at <= since_s), default=since_s)
        later = [last, *(at for at in self.times if at > since_s)]
        return max(pairwise(later), key=lambda pair: pair[1] - pair[0], default=(since_s, since_s))

    def _take(self, line: str) -> None:
        if line == ": resumed":
            self.resumed_s.append(time.monotonic())
        elif line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            if "error" in event:
                self.error = str(event["error"])[:300]
            for choice in event.get("choices", []):
                if choice["delta"].get("content"):
                    self.text += choice["delta"]["content"]
                    self.times.append(time.monotonic())


@dataclass
class Round:
    """One round, as it was seen."""

    kind: str
    streams: list[Stream]
    hurt_s: float
    at_victim: int
    """The streams that the node had which was hurt."""


async def all_of(
    url: str, asked: Asked, *, until_tokens: int = 0, more: int = 0
) -> AsyncIterator[list[Stream]]:
    """Ask for all streams at once; yield them once each has that many tokens, or has ended, and again at their end."""
    streams = [
        Stream(asked.models[number % len(asked.models)], number, asked, more)
        for number in range(asked.streams)
    ]
    no_limit = aiohttp.ClientTimeout(total=None, sock_read=120)
    async with aiohttp.ClientSession(timeout=no_limit) as client:
        running = [asyncio.create_task(each.run(client, url)) for each in streams]

        def have_begun() -> bool:
            pairs = zip(streams, running, strict=True)
            return all(len(each.times) >= until_tokens or task.done() for each, task in pairs)

        await until(have_begun, every_s=0.005)
        yield streams
        await asyncio.gather(*running)
        yield streams


async def hold(cluster: Cluster, peer: str, state: str) -> None:
    """Have the router use a node never (`forced_open`), or as it goes (`automatic`)."""
    async with (
        aiohttp.ClientSession(headers=cluster.headers) as client,
        client.put(f"{cluster.http_url}/v1/nodes/{peer}/circuit", json={"state": state}) as answer,
    ):
        if answer.status != 200:
            raise SystemExit(f"the circuit could not be set: {await answer.text()}")


async def run_round(
    cluster: Cluster, victim: Member, other: Member, kind: str, asked: Asked
) -> Round:
    """Hurt a node that makes all answers once each has as many tokens as are asked for, and see them to their ends."""
    spare = peer_of(other)
    await hold(cluster, spare, "forced_open")
    running = all_of(cluster.http_url, asked, until_tokens=asked.had)
    await anext(running)
    await hold(cluster, spare, "automatic")
    send_signal(own_pids(victim)[: 1 if kind == DRAINED else None], SIGNALS[kind])
    hurt_s = time.monotonic()
    try:
        streams = await anext(running)
    finally:
        send_signal(own_pids(victim), signal.SIGCONT)
    hurt = peer_of(victim)
    at_victim = sum(each.node == hurt and each.times[-1] > hurt_s for each in streams if each.times)
    await running.aclose()  # type: ignore[attr-defined] - a generator of ours
    return Round(kind, streams, hurt_s, at_victim)


async def measure(options: argparse.Namespace, file: Path, console: Console) -> None:
    """Run the rounds that the file does not have, and write a line for each."""
    first = len(rounds_in(file))
    if first >= options.rounds:
        return
    at = random.Random(options.seed).randrange(2)  # noqa: S311 - a draw of this benchmark
    with tempfile.TemporaryDirectory(prefix="capamesh-chat-") as top:
        models = Path(top) / "models"
        asked = Asked(MODELS, options.streams, options.tokens, options.greedy, options.had)
        if options.model:
            asked = replace(asked, models=MODELS[:1])
            shutil.copytree(options.model, models / MODELS[0])
        for name in () if options.model else MODELS:
            folder = models / name
            write_decoder_folder(folder / "1", source=gguf(variant=Variant(context=CONTEXT)))
            (folder / "capamesh.toml").write_text("task = 'chat'\n")
        # all cores for each, as on a machine of its own: one of them has the streams when pauses are looked at
        async with Cluster(Path(top) / "cluster", models, node_options=()) as cluster:
            nodes = [await cluster.add(), await cluster.add()]
            await cluster.wait_routable(2, asked.models)
            texts = await undisturbed(cluster, asked)
            for number in range(first, options.rounds):
                kind = KINDS[number % len(KINDS)]
                victim = (at + number) % 2
                begun_s = await begin_s(cluster, peer_of(nodes[victim]), asked, number)
                seen = await run_round(cluster, nodes[victim], nodes[1 - victim], kind, asked)
                show_round(number, seen, texts, console)
                with file.open("a") as lines:
                    lines.write(json.dumps(told_of(seen, texts, begun_s)) + "\n")
                if kind != FROZEN:
                    await nodes[victim].wait()
                    nodes[victim] = await cluster.start_again(nodes[victim])
                await cluster.wait_routable(2, asked.models)


async def undisturbed(cluster: Cluster, asked: Asked) -> dict[tuple[str, int], str]:
    """Return the texts that nothing disturbs."""
    expected: list[Stream] = []
    for _ in range(2):  # the first warms up
        calm = all_of(cluster.http_url, asked)
        await anext(calm)
        expected = await anext(calm)
        if broken := [each.error for each in expected if each.error or not each.is_done]:
            raise SystemExit(f"an undisturbed answer broke off: {broken[0]}")
    return {(each.model, each.number): each.text for each in expected}


async def begin_s(cluster: Cluster, victim: str, asked: Asked, number: int) -> float:
    """Return how long as many answers behind longer prompts take to begin at the node that is not the `victim`, just before a round of that number."""
    await hold(cluster, victim, "forced_open")
    asked_s = time.monotonic()
    longer = all_of(cluster.http_url, replace(asked, tokens=1), more=asked.had + number)
    await anext(longer)
    read = await anext(longer)
    await hold(cluster, victim, "automatic")
    return max(each.times[0] for each in read) - asked_s


def show_round(
    number: int, seen: Round, texts: dict[tuple[str, int], str], console: Console
) -> None:
    """Print what became of a round, and of what its longest pause was made."""
    wrong = wrong_of(seen, texts)
    worst = max(seen.streams, key=lambda each: each.pause_s(seen.hurt_s))
    console.print(
        f"round {number}: {seen.kind} under {seen.at_victim} streams, {len(wrong)} wrong, longest pause"
        f" {worst.pause_s(seen.hurt_s):.2f} s: {worst.told(seen.hurt_s)}",
        highlight=False,
        soft_wrap=True,
    )
    for each in wrong:
        console.print(f"[red]{each}[/red]", highlight=False)


def told_of(seen: Round, texts: dict[tuple[str, int], str], begun_s: float) -> dict[str, Any]:
    """Return what is kept of a round, as JSON has it."""
    return {
        "kind": seen.kind,
        "begun_s": round(begun_s, 3),
        "streams": len(seen.streams),
        "at_victim": seen.at_victim,
        "broken": sum(bool(each.error or not each.is_done) for each in seen.streams),
        "wrong_or_broken": len(wrong_of(seen, texts)),
        "pauses_s": [round(each.pause_s(seen.hurt_s), 3) for each in seen.streams],
        "noticed_s": round(
            max(
                (each.resumed_s[0] - seen.hurt_s for each in seen.streams if each.resumed_s),
                default=0.0,
            ),
            3,
        ),
    }


def rounds_in(file: Path) -> list[dict[str, Any]]:
    """Return what was seen of the rounds of earlier runs."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wrong_of(seen: Round, texts: dict[tuple[str, int], str]) -> list[str]:
    """Return what is wrong with the streams of a round."""
    found: list[str] = []
    for each in seen.streams:
        expected = texts[each.model, each.number]
        name = f"{each.model} {each.number}"
        if each.error or not each.is_done:
            found.append(f"{name} broke off after {len(each.times)} parts: {each.error}")
        elif each.text != expected:
            same = next(
                (at for at, (a, b) in enumerate(zip(each.text, expected, strict=False)) if a != b),
                min(len(each.text), len(expected)),
            )
            found.append(
                f"{name} says something else from character {same} of {len(expected)} on, after {len(each.resumed_s)} resumes"
            )
    return found


def report_of(rounds: Sequence[dict[str, Any]]) -> Report:
    """Return the figures and the bars."""
    report = Report()
    broken = sum(each["broken"] for each in rounds)
    report.bar("all", "streams broken off", broken, 0)
    wrong = sum(each["wrong_or_broken"] for each in rounds) - broken
    report.bar("all", "streams with another text", wrong, 0)
    report.bar("all", "seconds added to pauses, p99", round(added_p99_s(rounds), 3), ADDED_S)
    for kind in KINDS:
        of_kind = [each for each in rounds if each["kind"] == kind]
        if not of_kind:
            continue
        pauses_s = [pause_s for each in of_kind for pause_s in each["pauses_s"]]
        report.note(
            kind,
            added_p99_s=round(added_p99_s(of_kind), 3),
            rounds=len(of_kind),
            streams=len(pauses_s),
            streams_gone_on_with=sum(each["at_victim"] for each in of_kind),
            wrong_or_broken=sum(each["wrong_or_broken"] for each in of_kind),
            begun_together_s=round(statistics.median(each["begun_s"] for each in of_kind), 3),
            noticed_s=round(statistics.median(each["noticed_s"] for each in of_kind), 3),
            median_pause_s=round(statistics.median(pauses_s), 3),
            longest_pause_s=max(pauses_s),
        )
    return report


def added_p99_s(rounds: Sequence[dict[str, Any]]) -> float:
    """Return the 99th percentile of the seconds of pauses beyond the silence of a frozen node and the time in which as many answers begin."""
    added_s = sorted(
        pause_s - each["begun_s"] - SILENCE_S[each["kind"]]
        for each in rounds
        for pause_s in each["pauses_s"]
    )
    return added_s[math.ceil(0.99 * len(added_s)) - 1]


def table_of(figures: dict[str, Any]) -> str:
    """Return the table of the page."""
    rows = (
        ("rounds", "rounds"),
        ("answers under way", "streams"),
        ("of these at the node that was hurt", "streams_gone_on_with"),
        ("answers that broke off, or have another text", "wrong_or_broken"),
        ("seconds until as many answers behind longer prompts have begun", "begun_together_s"),
        ("seconds until the router had noticed for all, median of the rounds", "noticed_s"),
        ("median pause, s", "median_pause_s"),
        ("longest pause, s", "longest_pause_s"),
    )
    kinds = [kind for kind in KINDS if kind in figures]
    return "\n".join(
        (
            f"| | {' | '.join(kinds)} |",
            f"|---|{'---:|' * len(kinds)}",
            *(
                f"| {words} | {' | '.join(str(figures[kind][name]) for kind in kinds)} |"
                for words, name in rows
            ),
        )
    )


def main() -> int:
    """Run, print, keep; fail when an answer broke off or is another, or a pause is too long."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--had", type=int, default=HAD, help="tokens before the node is hurt")
    parser.add_argument("--model", type=Path, help="a language model's folder, as imported")
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="the tokens of an answer")
    parser.add_argument("--greedy", action="store_true", help="temperature 0, and no seed")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--folder", type=Path, help="where what was seen of each round is left and found"
    )
    parser.add_argument("--keep", action="store_true", help="write the figures and the table")
    options = parser.parse_args()
    console = Console()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        name = "" if options.model is None else f"-{options.model.name}"
        manner = "-greedy" if options.greedy else ""
        file = folder / f"rounds-{options.seed}-{options.had}-{options.streams}{name}{manner}.jsonl"
        asyncio.run(measure(options, file, console))
        report = report_of(rounds_in(file)[: options.rounds])
    report.show("answers whose node is hurt", console)
    console.print(report.figures)
    if options.keep:
        figures = {"seed": options.seed, "had": options.had, "cases": report.figures}
        console.print(f"kept in {keep('generation_chaos', figures)}")
        console.print(f"and {page_tables.write(PAGE, MADE_BY, table_of(report.figures))}")
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
