"""One request that is run in parts, a few at a time, each wherever it is run best. No IO of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from capamesh.protocol.errors import CapameshError
from capamesh.router.requests.inference import ToldRequest

if TYPE_CHECKING:
    from capamesh.protocol.oip import InferRequest
    from capamesh.router.requests.call import Outcome
    from capamesh.router.requests.inference import InferenceService, Target


async def run_parts(
    service: InferenceService, target: Target, asked: Sequence[InferRequest], *, at_once: int
) -> list[Outcome]:
    """Return the outcomes of all parts, in their order; `at_once` of them are under way at a time.

    Raises the error of the first part that fails, at which the others are withdrawn, as they are when the caller leaves.
    """
    outcomes: dict[int, Outcome] = {}
    left = iter(enumerate(asked))

    async def work(left: Iterator[tuple[int, InferRequest]]) -> None:
        for place, one in left:
            outcomes[place] = await _outcome(service, target, one)

    tasks = [asyncio.create_task(work(left)) for _ in range(min(at_once, len(asked)))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [outcomes[place] for place in range(len(asked))]


async def _outcome(service: InferenceService, target: Target, asked: InferRequest) -> Outcome:
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def tell(outcome: Outcome | CapameshError) -> None:
        if ended.done():  # whoever waits was cancelled a turn of the loop before
            return
        if isinstance(outcome, CapameshError):
            ended.set_exception(outcome)
        else:
            ended.set_result(outcome)

    request = ToldRequest(service, target, tell)
    request.submit(asked)
    try:
        return await ended
    finally:
        request.cancel()
