"""Asks which policy gives callers of language models their first token soonest. In virtual time, by the router's policies and the node's engine.

`python benchmarks/generation_routing.py [--seeds 1 2 3] [--policies prefix,affinity,...] [--keep]`. Eight nodes with the engine of generation,
whose runs take what they were measured to take on two cores; one router, whose policy is all that differs. Three kinds of callers, and all
together: programs that put the same long instructions before each question, people in chats of several turns, and texts that have nothing in
common. A node keeps as many tokens as the default memory for that holds. The same seeds give the same figures on any machine.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from generation_nodes import DECODE_S, FILL_S, LENGTH, SLOTS, TimedNode
from machine import keep
from report import Report
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from generation_fakes import LetterText  # noqa: E402 - found by the path set above, as all of these

from capamesh.node.generation import GenerationRequest, SamplingParameters  # noqa: E402
from capamesh.node.generation.sequence import Sequence as TokenSequence  # noqa: E402
from capamesh.protocol.errors import CapameshError  # noqa: E402
from capamesh.protocol.ids import ModelName, ModelVersion  # noqa: E402
from capamesh.router.policies import make_policy  # noqa: E402
from capamesh.router.policies.request_shape import RequestShape  # noqa: E402
from capamesh.router.requests.generation.beginnings import beginnings_of  # noqa: E402

NODES: Final = 8
WAY_S: Final = 0.004
"""Seconds to a node, its tokenizer included."""
REPORT_S: Final = 0.02
"""A node's report comes with a token, and no more often."""
REQUESTS: Final = 300
SETTLED: Final = 0.15
"""The part of the requests, the first, that is not counted."""
LOAD: Final = 0.7
"""The work that comes, as a part of what the nodes could do if nothing were kept."""
SLOW: Final = 2.0
"""One node is so many times slower than the others."""
POLICIES: Final = ("prefix", "affinity", "prequal", "least-request", "p2c", "round-robin")
PREFIX: Final = "prefix"
KINDS: Final = ("instructions", "chats", "apart", "all")
BARS: Final = {"instructions": 0.8, "chats": 1.0, "apart": 1.1, "all": 0.9}
"""The most that the policy's 99th percentile may be, as a part of the best other's."""


@dataclass(slots=True)
class Prompt:
    """One request as it is to come."""

    at_s: float
    tokens: list[int]
    answer: int
    key: str
    """The text that its chat has in common, by which affinity goes."""
    next_turns: list[tuple[float, int, int]] = field(default_factory=list[tuple[float, int, int]])
    """The turns that follow: how long after the answer, the new tokens, and those of the answer."""


class Kind:
    """Makes the requests of one kind of callers."""

    def __init__(self, name: str, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - a workload, as the next
        self._name = name
        self._instructions = [self._new(600) for _ in range(40)]
        self._weights = [1 / (at + 1) for at in range(40)]

    def _new(self, count: int) -> list[int]:
        return [self._rng.randrange(1, 2**16) for _ in range(count)]

    def prompt(self, at_s: float) -> Prompt:
        """Return the next request."""
        rng, name = self._rng, self._name
        if name == "all":
            name = rng.choice(KINDS[:3])
        answer = rng.randrange(20, 150)
        if name == "instructions":
            told = rng.choices(self._instructions, self._weights)[0]
            asked = self._new(rng.randrange(20, 200))
            return Prompt(at_s, told + asked, answer, str(asked))
        if name == "apart":
            tokens = self._new(rng.randrange(50, 700))
            return Prompt(at_s, tokens, answer, str(tokens))
        turns = [
            (rng.expovariate(0.2), rng.randrange(20, 150), rng.randrange(20, 150))
            for _ in range(rng.randrange(1, 8))
        ]
        tokens = self._new(rng.randrange(50, 300))
        return Prompt(at_s, tokens, answer, str(tokens), turns)

    def turn(self, before: Prompt, now_s: float) -> Prompt | None:
        """Return the next turn of a chat whose answer has ended; None: there is none."""
        if not before.next_turns:
            return None
        (after_s, new, answer), *rest = before.next_turns
        tokens = [*before.tokens, *self._new(before.answer), *self._new(new)]
        if len(tokens) + answer >= LENGTH:
            return None
        return Prompt(now_s + after_s, tokens, answer, before.key, rest)

    def work_s(self) -> float:
        """Return the seconds of a node that a request takes if nothing is kept, on average."""
        taken = [self.prompt(0.0) for _ in range(300)]
        total = 0.0
        for each in taken:
            at: Prompt | None = each
            while at is not None:
                total += len(at.tokens) * FILL_S + at.answer * 2 * DECODE_S / SLOTS
                at = self.turn(at, 0.0)
        return total / sum(1 + len(each.next_turns) for each in taken)


@dataclass(slots=True)
class Seen:
    """One request as it was answered."""

    prompt: Prompt
    node: TimedNode
    first_s: float = -1.0
    cached: int = 0


class Run:
    """One policy with one kind of callers."""

    def __init__(self, policy: str, kind: str, seed: int) -> None:
        self._kind = Kind(kind, seed)
        self._rng = random.Random(seed + 1)  # noqa: S311
        self._policy = make_policy(policy, random.Random(seed + 2))  # noqa: S311
        self.nodes = [TimedNode(at, SLOW if at == 0 else 1.0) for at in range(NODES)]
        self._replicas = tuple(node.replica for node in self.nodes)
        self._of = {node.replica: node for node in self.nodes}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._under_way: dict[TokenSequence, Seen] = {}
        self.now_s = 0.0
        self.seen: list[Seen] = []
        self.refused = 0

    def at(self, at_s: float, do: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self._events, (at_s, next(self._numbers), do))

    def run(self) -> None:
        """Send all requests, and see them to their ends."""
        rate = LOAD * (NODES - 1 + 1 / SLOW) / self._kind.work_s()
        arrivals = self._arrivals(rate)
        self._next_arrival(arrivals)
        while self._events and len(self.seen) + self.refused < REQUESTS:
            self.now_s, _, do = heapq.heappop(self._events)
            do()

    def _arrivals(self, rate: float) -> Iterator[Prompt]:
        at_s = 0.0
        while True:
            prompt = self._kind.prompt(at_s)
            at_s += self._rng.expovariate(rate / (1 + len(prompt.next_turns)))
            yield prompt

    def _next_arrival(self, arrivals: Iterator[Prompt]) -> None:
        prompt = next(arrivals)

        def come() -> None:
            self._send(prompt)
            self._next_arrival(arrivals)

        self.at(prompt.at_s, come)

    def _send(self, prompt: Prompt) -> None:
        text = "".join(f"{token:04x}" for token in prompt.tokens)
        shape = RequestShape(
            ModelName("m"),
            ModelVersion("1"),
            len(text),
            prompt.key,
            beginnings=beginnings_of({"prompt": text}, ""),
        )
        replica = self._policy.pick(self._replicas, lambda _: True, shape, self.now_s)
        assert replica is not None  # noqa: S101 - all are eligible
        replica.rif += 1
        self._policy.sent(replica, self.now_s)
        for probed in self._policy.probes(self._replicas, lambda *_: True, self.now_s):
            self.at(self.now_s + WAY_S, lambda probed=probed: self._tell(self._of[probed]))
        node = self._of[replica]
        self.at(self.now_s + WAY_S, lambda: self._come(node, prompt))

    def _come(self, node: TimedNode, prompt: Prompt) -> None:
        asked = GenerationRequest(
            tuple(prompt.tokens), prompt.answer, SamplingParameters(temperature=0.0)
        )
        try:
            (sequence,) = node.engine.submit(asked, self.now_s, LetterText)
        except CapameshError:
            self.refused += 1
            node.replica.rif -= 1
            return
        seen = self._under_way[sequence] = Seen(prompt, node)
        self.seen.append(seen)
        self._step(node)

    def _step(self, node: TimedNode) -> None:
        if node.is_busy:
            return
        plan = node.engine.plan(self.now_s)
        if plan is None:
            return
        node.is_busy = True
        took_s = node.took_s(plan)

        def end() -> None:
            node.is_busy = False
            node.engine.stepped(plan, plan.run(node.slots), self.now_s, took_s)
            for each in node.engine.take_parts():
                self._part(node, each.sequence, is_last=each.part.is_last)
            if self.now_s - node.reported_s >= REPORT_S:
                self._tell(node)
            self._step(node)

        self.at(self.now_s + took_s, end)

    def _part(self, node: TimedNode, sequence: TokenSequence, *, is_last: bool) -> None:
        seen = self._under_way[sequence]
        if seen.first_s < 0:
            seen.first_s = self.now_s - seen.prompt.at_s
            seen.cached = sequence.cached
            node.first_s += (seen.first_s - node.first_s) * (0.2 if node.first_s else 1.0)
            node.replica.streams += 1
        if is_last:
            del self._under_way[sequence]
            node.replica.rif -= 1
            node.replica.streams -= 1
            self._tell(node)
            turn = self._kind.turn(seen.prompt, self.now_s)
            if turn is not None:
                self.at(turn.at_s, lambda: self._send(turn))

    def _tell(self, node: TimedNode) -> None:
        node.reported_s = self.now_s
        node.replica.reported(node.report(), self.now_s)
        self._policy.reported(node.replica, self.now_s)


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def figures_of(policy: str, kind: str, seeds: Sequence[int]) -> dict[str, float]:
    """Return the medians of the seeds."""
    rows: list[dict[str, float]] = []
    for seed in seeds:
        run = Run(policy, kind, seed)
        run.run()
        counted = [each for each in run.seen[int(SETTLED * REQUESTS) :] if each.first_s >= 0]
        firsts = [each.first_s for each in counted]
        tokens = sum(len(each.prompt.tokens) for each in counted)
        at_nodes = [sum(each.node is node for each in counted) for node in run.nodes]
        rows.append(
            {
                "p50_ms": 1e3 * quantile(firsts, 0.5),
                "p99_ms": 1e3 * quantile(firsts, 0.99),
                "kept": sum(each.cached for each in counted) / tokens,
                "most_at_a_node": max(at_nodes) / len(counted),
                "refused": run.refused,
            }
        )
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def main() -> int:
    """Run, print, keep; fail when the policy is not the best, where it is to be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", action="store_true", help="keep the figures in results/")
    options = parser.parse_args()
    console, report = Console(), Report()
    table = Table(title="until the first token")
    for column in (
        "callers",
        "policy",
        "median",
        "p99",
        "of prompts kept",
        "at one node",
        "refused",
    ):
        table.add_column(column, justify="left" if column in {"callers", "policy"} else "right")
    for kind in options.kinds.split(","):
        rows = {each: figures_of(each, kind, options.seeds) for each in options.policies.split(",")}
        for number, (policy, row) in enumerate(rows.items()):
            table.add_row(
                "" if number else kind,
                policy,
                f"{row['p50_ms']:.0f} ms",
                f"{row['p99_ms']:.0f} ms",
                f"{row['kept']:.0%}",
                f"{row['most_at_a_node']:.0%}",
                f"{row['refused']:.0f}",
            )
        report.note(kind, policies=rows)
        others = [row["p99_ms"] for policy, row in rows.items() if policy != PREFIX]
        if PREFIX in rows and others:
            ratio = rows[PREFIX]["p99_ms"] / min(others)
            report.bar(kind, f"p99 of {PREFIX}, of the best other's", ratio, BARS[kind])
    console.print(table)
    report.show("prompts where they were run before", console)
    if options.keep:
        figures = {"seeds": options.seeds, "cases": report.figures}
        console.print(f"kept in {keep('generation_routing', figures)}")
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
