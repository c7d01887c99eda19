"""The answer to one request for generation, as it is written while it comes: one run for each of its prompts. IO: asyncio's events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import TooLarge
from capamesh.router.access.keys import OPERATOR
from capamesh.router.requests.generation.parts import Usage
from capamesh.router.requests.generation.run import GenerationRun, Listener

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.router.access.quotas import Lease
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.requests.call import Outcome, Part
    from capamesh.router.requests.generation.asked import Asked
    from capamesh.router.requests.generation.parts import Piece
    from capamesh.router.requests.generation.written import Writer
    from capamesh.router.requests.inference import InferenceService, Target


class GenerationAnswer(Listener):
    """One answer: what of it is written and waits for its client, and how it ended.

    A node sends no more than what is not released, so that a client who does not read has no more wait here.
    """

    def __init__(
        self,
        service: InferenceService,
        target: Target,
        asked: Asked,
        writer: Writer,
        lease: Lease | None,
        client: str,
    ) -> None:
        """Take over the `lease`, which is settled with the tokens that the request of a `client`, by its site, took. Raises `InvalidParameter`."""
        self._service = service
        self._target = target
        self._began_s = service.routing.clock()
        self._first_s: float | None = None
        """The time of the first token; None: there was none."""
        self._is_counted = False
        self._asked = asked
        self._writer = writer
        self._lease = lease
        self._runs = [
            GenerationRun(service, target, asked, number, self, client)
            for number in range(len(asked.prompts))
        ]
        self._left = len(self._runs)
        self._news = asyncio.Event()
        self._text = bytearray()
        self._parts: list[Part] = []
        """The parts whose pieces are in the text that waits."""
        self._size_bytes = 0
        self._send: Callable[[bytes], bool] | None = None
        """Sends text at once, unless it returns False; None: all text waits."""
        self.error: CapameshError | None = None
        self.is_ended = False

    @property
    def has_text(self) -> bool:
        """Return whether something waits to be sent."""
        return bool(self._text)

    @property
    def resumes(self) -> int:
        """Return how often another node had to go on."""
        return sum(run.resumes for run in self._runs)

    @property
    def outcomes(self) -> list[Outcome]:
        """Return the newest outcome of each run that has one."""
        return [run.outcome for run in self._runs if run.outcome is not None]

    def usage(self) -> Usage:
        """Return the tokens that it took so far."""
        total = Usage()
        for run in self._runs:
            if run.outcome is not None:
                total = total.plus(run.progress.usage())
        return total

    def explanation(self, now_s: float) -> Explanation | None:
        """Return why the first of its runs went where it went, of which that is known; None: of none."""
        found = (run.explanation(now_s) for run in self._runs)
        return next((each for each in found if each is not None), None)

    def begin(self) -> None:
        """Send all of it on its way."""
        for run in self._runs:
            if not self.is_ended:
                run.begin()

    def cancel(self) -> None:
        """Withdraw what is under way, for the client has left. Nothing happens when it is over."""
        for run in self._runs:
            run.cancel()
        self._settle()

    async def until_news(self) -> None:
        """Wait until something waits to be sent, or it has ended."""
        while not (self._text or self.is_ended):
            self._news.clear()
            await self._news.wait()

    async def until_ended(self) -> None:
        """Wait until it has ended."""
        while not self.is_ended:
            self._news.clear()
            await self._news.wait()

    def send_by(self, send: Callable[[bytes], bool]) -> None:
        """Let `send` send what comes from now on while nothing waits; what it returns False for waits."""
        self._send = send

    def taken(self) -> tuple[bytes, list[Part]]:
        """Return the text that waits, which waits no more, and the parts to release once it is sent."""
        text, parts = bytes(self._text), self._parts
        self._text.clear()
        self._parts = []
        return text, parts

    @override
    def take(self, run: GenerationRun, pieces: Sequence[Piece], part: Part | None) -> None:
        if self._first_s is None and any(piece.t for piece in pieces):
            self._first_s = self._service.routing.clock()
        first = run.number * self._asked.choices
        written = b""
        try:
            for piece in pieces:
                written += self._writer.take(first + piece.c, piece)
        except TooLarge as error:
            self.error = error
            if part is not None:
                part.release()
            run.break_off(error)
            return
        if self._add(written) and part is not None:
            part.release()
        elif part is not None:
            self._parts.append(part)

    @override
    def resumed(self, run: GenerationRun) -> None:
        self._add(self._writer.resumed())

    @override
    def ended(self, run: GenerationRun, error: CapameshError | None) -> None:
        self._left -= 1
        self.error = error = self.error or error
        if self.is_ended or (error is None and self._left):
            return
        self.is_ended = True
        if error is None:
            self._add(self._writer.end(self.usage()))
        self._settle()
        for other in self._runs:
            if other is not run:
                other.cancel()
        self._news.set()

    def _add(self, text: bytes) -> bool:
        """Send `text`, or have it wait; return whether nothing of it waits."""
        if not text:
            return True
        self._size_bytes += len(text)
        if self._send is not None and not self._text and self._send(text):
            return True
        self._text += text
        self._news.set()
        return False

    def _settle(self) -> None:
        """Count the tokens that were made, whoever broke off, and have the key pay for them."""
        self._count()
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if not self.outcomes:
            lease.settle()
            return
        usage = self.usage()
        lease.settle(self._size_bytes, usage.prompt + usage.completion)

    def _count(self) -> None:
        """Count the answer's tokens and times, once, if a node has answered at all."""
        if self._is_counted or not self.outcomes:
            return
        self._is_counted = True
        usage, key, first_s = self.usage(), self._target.key, self._first_s
        waited_s = gap_s = None
        if first_s is not None:
            waited_s = first_s - self._began_s
            # several choices get their tokens in the same steps
            more = usage.completion / (self._asked.choices * len(self._runs)) - 1
            if more >= 1:
                gap_s = (self._service.routing.clock() - first_s) / more
        self._service.telemetry.texts.ended(
            self._target.model,
            "" if key is None or key is OPERATOR else key.tenant,
            (usage.prompt, usage.cached, usage.completion),
            waited_s,
            gap_s,
        )
