"""Asks a language model, so many callers at once. IO: sockets, through the SDK; reads the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final

from capamesh.cli.llm_load.measures import Level, Sample, level_of
from capamesh.cli.llm_load.prompts import LONG, SHORT, Gauge, prompt
from capamesh.protocol.errors import CapameshError

if TYPE_CHECKING:
    from capamesh.client import AsyncClient, AsyncTextStream

NOTHING: Final = "the answer is empty"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The requests of all levels."""

    model: str
    input_tokens: int
    output_tokens: int
    requests: int
    """The requests of each caller that count."""
    warm_up: int
    """The requests of each caller before them, which do not."""
    seed: int
    temperature: float
    is_completion: bool
    """True if prompts are gone on with, without a chat's template."""
    goes_on: bool
    """True if answers go on behind the model's own end, so that all have as many tokens."""
    timeout_s: float | None


class Load:
    """Puts load on one model."""

    def __init__(
        self, client: AsyncClient, plan: LoadPlan, clock: Callable[[], float] = perf_counter
    ) -> None:
        """`client` sends nothing again: what is refused is an error."""
        self._client = client
        self._plan = plan
        self._clock = clock
        self.gauge = Gauge()
        """The tokens that prompts come to; `gauged` measures them."""

    async def gauged(self) -> None:
        """Measure by two short answers how many tokens a word comes to. Raises `CapameshError`: the model cannot be asked."""
        found: list[int] = []
        for words in (SHORT, LONG):
            stream = self._stream(prompt(self._plan.seed, words, "gauge", words), most=1)
            async with stream:
                async for _ in stream:
                    pass
            found.append(stream.answer.usage.prompt_tokens)
        self.gauge = Gauge.of(*found)

    async def level(self, callers: int, begun: Callable[[], None]) -> Level:
        """Return the measures of so many callers; `begun` is called at each request that counts."""
        if self._plan.warm_up:
            await self._all(callers, self._plan.warm_up, "warm-up", lambda: None)
        samples = await self._all(callers, self._plan.requests, "measured", begun)
        return level_of(callers, samples)

    async def _all(
        self, callers: int, requests: int, phase: str, begun: Callable[[], None]
    ) -> list[Sample]:
        words = self.gauge.words(self._plan.input_tokens)

        async def ask_in_turn(caller: int) -> list[Sample]:
            found: list[Sample] = []
            for number in range(requests):
                begun()
                text = prompt(self._plan.seed, words, phase, callers, caller, number)
                found.append(await self._sample(text))
            return found

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(ask_in_turn(caller)) for caller in range(callers)]
        return [sample for task in running for sample in task.result()]

    async def _sample(self, text: str) -> Sample:
        began_s = self._clock()
        pieces: list[float] = []
        try:
            stream = self._stream(text, most=self._plan.output_tokens)
            async with stream:
                async for piece in stream:
                    if piece.text or piece.tool_calls:
                        pieces.append(self._clock())  # noqa: PERF401 - each at its own time
        except CapameshError as error:
            return Sample(began_s, self._clock(), error=f"{error.code}: {error.message[:200]}")
        ended_s = self._clock()
        if not pieces:
            return Sample(began_s, ended_s, error=NOTHING)
        usage = stream.answer.usage
        return Sample(
            began_s,
            ended_s,
            tuple(pieces),
            usage.prompt_tokens,
            usage.completion_tokens or len(pieces),
        )

    def _stream(self, text: str, *, most: int) -> AsyncTextStream:
        plan = self._plan
        ask = self._client.complete_stream if plan.is_completion else self._client.chat_stream
        return ask(
            plan.model,
            text,
            timeout_s=plan.timeout_s,
            max_tokens=most,
            temperature=plan.temperature,
            seed=plan.seed,
            ignore_eos=True if plan.goes_on else None,
        )
