"""One request that is run in parts, a few at a time, each wherever it is run best. IO: asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import CapameshError, Overloaded
from capamesh.router.requests.told_request import ToldRequest

if TYPE_CHECKING:
    from capamesh.protocol.oip import InferRequest
    from capamesh.router.requests.call import Outcome
    from capamesh.router.requests.inference import InferenceService, Target

PAUSE_S: Final = 0.05
"""The least time after which a part that was refused is sent again (guess: a few runs)."""
MOST_REFUSALS: Final = 5
"""The most refusals in a row of the only part under way (guess: then others need the nodes more)."""


async def run_parts(
    service: InferenceService, target: Target, asked: Sequence[InferRequest], *, at_once: int
) -> list[Outcome]:
    """Return the outcomes of all parts, in their order, within the time that one request may take.

    At most `at_once` of them are under way at a time. Where nodes have no room for one more, fewer are from then on: what
    they have room for is found out so, and a large request is not refused for being large. Raises the error of the first
    part that fails, at which the others are withdrawn, as they are when the caller leaves.
    """
    parts = _Parts(service, target, asked)
    tasks = [asyncio.create_task(parts.work()) for _ in range(min(at_once, len(asked)))]
    parts.workers = len(tasks)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [parts.outcomes[place] for place in range(len(asked))]


class _Parts:
    """The parts of one request, which its workers send one after the other."""

    def __init__(
        self, service: InferenceService, target: Target, asked: Sequence[InferRequest]
    ) -> None:
        self._service = service
        self._target = target
        self._waiting = deque(enumerate(asked))
        self._end_s = service.routing.clock() + service.timeout_s
        self.outcomes: dict[int, Outcome] = {}
        self.workers = 0

    async def work(self) -> None:
        """Send parts until none is left, or until nodes have no room for as many as are under way."""
        try:
            await self._work()
        finally:
            self.workers -= 1

    async def _work(self) -> None:
        refusals = 0
        while self._waiting:
            place, one = self._waiting.popleft()
            try:
                self.outcomes[place] = await self._outcome(place, one)
                refusals = 0
            except Overloaded as error:
                self._waiting.appendleft((place, one))
                if self.workers > 1:
                    return  # another worker takes it
                refusals += 1
                if refusals > MOST_REFUSALS:
                    raise
                await asyncio.sleep(max(error.retry_after_s, PAUSE_S))

    async def _outcome(self, place: int, asked: InferRequest) -> Outcome:
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def tell(outcome: Outcome | CapameshError) -> None:
            if ended.done():  # whoever waits was cancelled a turn of the loop before
                return
            if isinstance(outcome, CapameshError):
                ended.set_exception(outcome)
            else:
                ended.set_result(outcome)

        target = self._target
        if target.idempotency_key:  # no client's key has such a character
            target = replace(target, idempotency_key=f"{target.idempotency_key}\0{place}")
        request = ToldRequest(self._service, target, tell)
        request.submit(asked, max(0.0, self._end_s - self._service.routing.clock()))
        try:
            return await ended
        finally:
            request.cancel()
