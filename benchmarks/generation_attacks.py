"""Measures how much longer callers of a language model wait for each token while others send what takes a node the most work. In one process.

`python benchmarks/generation_attacks.py FOLDER [--seconds 8]`, with a decoder's folder of `capamesh model import-llm`. Four callers generate; for each
attack four others send it again as soon as it is refused or answered. Told is the median of the gaps between two tokens of one caller, and the longest of a hundred,
each in turns with gaps of as many callers that nobody disturbs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.generation import GenerationSettings
from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots
from capamesh.node.runtime.text_generation.text_model import TextModel
from capamesh.node.scheduling import PendingRequest, Result
from capamesh.node.scheduling.generation_runner import GenerationRunner
from capamesh.node.scheduling.generation_scheduler import GenerationScheduler
from capamesh.node.scheduling.stats import Meter
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import BYTES, Tensor, join_elements

SLOTS = 8
LENGTH = 1024
THREADS = 2
CALLERS = 4
ATTACKERS = 4
BEGUN_S = 1.0
ANOTHER = "each time 100 references"
HI = [{"role": "user", "content": "Hi"}]


def attacks() -> dict[str, dict[str, Any]]:
    """Return the bodies, by what they are."""
    names = [f"p{at}" for at in range(1000)]
    wide = {"properties": {name: {"type": "string"} for name in names}}
    chain = {f"d{at}": {"items": {"$ref": f"#/$defs/d{at + 1}"}} for at in range(99)}
    deep = {"$defs": {**chain, "d99": {"type": "integer"}}, "$ref": "#/$defs/d0"}
    one = {"max_tokens": 1}
    return {
        "a prompt over the context": {"prompt": "word " * 40_000},
        "a schema of 1,000 fields": {"messages": HI, "guide": {"schema": wide}, **one},
        "a schema of 100 references": {"messages": HI, "guide": {"schema": deep}, **one},
        ANOTHER: {"messages": HI, "guide": {"schema": deep}, **one},
        "an expression that grows": {
            "messages": HI,
            "guide": {"regex": "(.*a.{200}b.*)&(.*c.{100})"},
            "max_tokens": 20,
        },
        "128 answers": {"messages": HI, "n": 128},
        "2,048 messages": {"messages": HI * 2048},
        "1,024 biases": {
            "prompt": "a",
            "logit_bias": dict.fromkeys(map(str, range(1024)), 1),
            **one,
        },
        "16 long stop strings": {
            "prompt": "a",
            "stop": [f"{at}{'a' * 200}" for at in range(16)],
            "guide": {"regex": "[0-9]a{0,300}"},
            "max_tokens": 100,
        },
    }


def bodies(body: dict[str, Any], *, is_another: bool) -> Iterator[Tensor]:
    """Yield what an attacker sends, again and again: the same, or each time a schema that nobody has sent."""
    same = tensor_of(body)
    for number in itertools.count():
        if not is_another:
            yield same
            continue
        schema = {**body["guide"]["schema"], "title": f"{number}"}
        yield tensor_of({**body, "guide": {"schema": schema}})


def tensor_of(body: dict[str, Any]) -> Tensor:
    """Return what a node is asked, BYTES [1]."""
    return Tensor("generation", BYTES, (1,), join_elements([json.dumps(body).encode()]))


class Model:
    """One language model with its scheduler."""

    def __init__(self, folder: Path) -> None:
        read = read_decoder_folder(folder)
        slots = DecoderSlots(read, count=SLOTS, length=LENGTH, threads=THREADS)
        self.scheduler = GenerationScheduler(
            TextModel(read, read.tokenizer_file.read_bytes(), length=LENGTH),
            meter=Meter(),
            most_in_flight=64,
            clock=time.monotonic,
            marks=InFlightJournal(None),
            number=1,
            watchdog_s=60.0,
            on_stuck=print,
        )
        settings = GenerationSettings()
        self.scheduler.begin(
            GenerationRunner(slots, settings, clock=time.monotonic, on_broken=print)
        )

    def ask(
        self,
        body: Tensor,
        on_part: Callable[[PendingRequest, Sequence[Tensor]], None] | None = None,
        *,
        is_bulk: bool = False,
    ) -> tuple[PendingRequest, asyncio.Future[Result]]:
        """Send a request; its parts go to `on_part`, its end is the future's result."""
        end: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(_: PendingRequest, result: Result) -> None:
            if not end.done():
                end.set_result(result)

        now_s = time.monotonic()
        request = PendingRequest(
            (body,), (), done, arrived_s=now_s, on_part=on_part, is_bulk=is_bulk
        )
        try:
            self.scheduler.submit(request, now_s)
        except CapameshError as error:
            end.set_result(error)
        return request, end

    async def gaps_ms(self, seconds: float, attack: Iterator[Tensor] | None) -> list[float]:
        """Return the milliseconds between tokens of each caller, while others send `attack`."""
        times: list[list[float]] = [[] for _ in range(CALLERS)]

        def timed(at: int) -> Callable[[PendingRequest, Sequence[Tensor]], None]:
            return lambda _, __: times[at].append(time.monotonic())

        body = tensor_of({"prompt": [5, 6, 7, 8], "max_tokens": 1000, "ignore_eos": True})
        callers = [self.ask(body, timed(at))[0] for at in range(CALLERS)]
        await asyncio.sleep(BEGUN_S)
        began_s = time.monotonic()
        until_s = began_s + seconds
        if attack is None:
            await asyncio.sleep(seconds)
        else:
            await asyncio.gather(*(self._attack(attack, until_s) for _ in range(ATTACKERS)))
        for each in callers:
            self.scheduler.cancel(each, time.monotonic())
        await asyncio.sleep(0.1)
        return [
            (b - a) * 1e3
            for each in times
            for a, b in itertools.pairwise(each)
            if began_s <= a and b <= until_s
        ]

    async def _attack(self, bodies: Iterator[Tensor], until_s: float) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            request, end = self.ask(next(bodies))
            try:
                await asyncio.wait_for(end, left_s)
            except TimeoutError:
                self.scheduler.cancel(request, time.monotonic())
            await asyncio.sleep(0)


async def measure(folder: Path, seconds: float, only: str) -> None:
    """Print what callers wait beside each attack, and how many times as long as alone."""
    model = Model(folder)
    for name, body in attacks().items():
        if only not in name:
            continue
        alone = await model.gaps_ms(seconds / 2, None)
        beside = await model.gaps_ms(seconds, bodies(body, is_another=name == ANOTHER))
        middle = statistics.median(beside) / statistics.median(alone)
        longest = [statistics.quantiles(each, n=100)[-1] for each in (beside, alone)]
        print(
            f"{name:28} median {statistics.median(beside):5.1f} ms, {middle:.2f} times;"
            f" one in a hundred {longest[0]:6.1f} ms, {longest[0] / longest[1]:.2f} times",
            flush=True,
        )
    await asyncio.to_thread(model.scheduler.close)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default="", help="the attacks that have this in their names")
    options = parser.parse_args()
    asyncio.run(measure(options.folder, options.seconds, options.only))


if __name__ == "__main__":
    main()
