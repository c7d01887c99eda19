"""Measures how long short prompts wait behind a long one, and it for them. Through a router and a node, with TLS between them.

`python benchmarks/generation_turns.py FOLDER [--rounds 5] [--long 3900] [--trial]`, with the folder of a version of a language model. In each round, with nobody and with
four callers who generate meanwhile: three short prompts by themselves, the long one by itself, and the three 0.2 s behind the long one. Told are the
medians of rounds: the mean wait of the three for their first tokens, the longest of them, that of the long one, and each in times of alone. Asked is at most 3 times for
the three, and 1.1 for the long one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvloop
from generation import SEED, Server, start_ours
from generation_clients import Caller
from machine import keep, wait_quiet

SHORT, SHORTS = 40, 3
ANSWER: Final = 8
BEHIND_S: Final = 0.2
GENERATING: Final = (0, 4)
BESIDE: Final = 3_000
"""The tokens of an answer beside, which is ended with its round."""
BARS: Final = {"short_mean": 3.0, "short_longest": 3.0, "long": 1.1}


async def asked(server: Server, length: int, count: int = 1) -> list[Caller]:
    """Ask for so many prompts at once, and return their callers once they are answered."""
    callers = [server.caller() for _ in range(count)]
    await asyncio.gather(*(each.ask(server.prompt(length), ANSWER) for each in callers))
    return callers


async def measure(server: Server, long: int) -> dict[str, list[float]]:
    """Return the waits of a round for first tokens, in ms, alone and together."""
    alone = [each.first_ms for each in await asked(server, SHORT, SHORTS)]
    (long_alone,) = await asked(server, long)
    first = asyncio.create_task(asked(server, long))
    await asyncio.sleep(BEHIND_S)
    behind = [each.first_ms for each in await asked(server, SHORT, SHORTS)]
    (long_beside,) = await first
    return {
        "short_mean": [statistics.mean(alone), statistics.mean(behind)],
        "short_longest": [max(alone), max(behind)],
        "long": [long_alone.first_ms, long_beside.first_ms],
    }


async def rounds_of(server: Server, generating: int, long: int, rounds: int) -> dict[str, float]:
    """Return the figures beside so many callers who generate."""
    found: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        begun = [asyncio.Event() for _ in range(generating)]
        beside = [
            asyncio.create_task(server.caller().ask(server.prompt(SHORT), BESIDE, event))
            for event in begun
        ]
        for event in begun:
            await event.wait()
        for name, pair in (await measure(server, long)).items():
            found.setdefault(name, []).append(pair)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    figures: dict[str, float] = {}
    for name, pairs in found.items():
        alone, together = (statistics.median(each) for each in zip(*pairs, strict=True))
        figures |= {
            f"{name}_alone_ms": alone,
            f"{name}_ms": together,
            f"{name}_times": together / alone,
        }
        mark = "" if together <= BARS[name] * alone else f"  over {BARS[name]:g}"
        print(
            f"{generating} generating, {name}: alone {alone:.0f} ms, together {together:.0f} ms: {together / alone:.2f} times{mark}"
        )
    return figures


async def run(options: argparse.Namespace) -> None:
    """Measure, print and keep the figures."""
    async with AsyncExitStack() as stack:
        server, _ = await start_ours(stack, options.folder.resolve(), random.Random(SEED))  # noqa: S311 - no secret
        await asked(server, SHORT, SHORTS)
        await asked(server, options.long)
        if not options.trial:
            await wait_quiet()
        figures = {
            f"generating_{count}": await rounds_of(server, count, options.long, options.rounds)
            for count in GENERATING
        }
    if not options.trial:
        keep("generation_turns", {"long": options.long, **figures})


def main() -> None:
    """Read what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long", type=int, default=3_900)
    parser.add_argument("--trial", action="store_true", help="keep nothing")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
