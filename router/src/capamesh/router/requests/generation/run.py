"""One generation on its way: its call, the pieces that come, and the next node where one is lost. No IO of its own.

Before anything has come, a call is retried as every other. From then on its tokens are known here, and where its node is lost
another goes on behind them: the same prompt and seed, and what there is so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from mypy_extensions import mypyc_attr

from capamesh.protocol.errors import (
    CapameshError,
    ContextExceeded,
    NoEndpoint,
    PeerError,
    ProtocolViolation,
    RequestKills,
    from_wire,
    is_refusal,
)
from capamesh.router.requests.generation.parts import Piece, Progress, read_pieces
from capamesh.router.requests.told_request import ToldRequest

if TYPE_CHECKING:
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.requests.call import Outcome, Part
    from capamesh.router.requests.generation.asked import Asked
    from capamesh.router.requests.inference import InferenceService, Target

MOST_RESUMES: Final = 3
"""The most times that another node goes on with an answer (guess: as many as nodes that run a request)."""


@mypyc_attr(native_class=False)
class Listener(Protocol):
    """The one who is told what comes of a generation. None of these may raise."""

    __slots__ = ()

    def take(self, run: GenerationRun, pieces: Sequence[Piece], part: Part | None) -> None:
        """Take pieces, and release the part that they came in once they are passed on; None: they came in none."""
        ...

    def resumed(self, run: GenerationRun) -> None:
        """Take that the node was lost, and another is asked to go on."""
        ...

    def ended(self, run: GenerationRun, error: CapameshError | None) -> None:
        """Take the end, once: all pieces have come (None), or why not."""
        ...


class GenerationRun:
    """The generation for one prompt of a request."""

    __slots__ = (
        "_asked",
        "_call",
        "_is_whole",
        "_listener",
        "_prompt",
        "_request",
        "_service",
        "_target",
        "number",
        "outcome",
        "progress",
        "resumes",
    )

    def __init__(
        self,
        service: InferenceService,
        target: Target,
        asked: Asked,
        number: int,
        listener: Listener,
        client: str,
    ) -> None:
        """`number` is the place of its prompt in the request. Raises `InvalidParameter`: the prompt cannot be passed on."""
        self._asked = asked
        self._prompt: Mapping[str, Any] = asked.prompts[number]
        self._call = asked.call(self._prompt)
        self._is_whole = False
        """True if nothing is missing but the word that the answer is over."""
        self._listener = listener
        self._service = service
        self._target = target
        self._request = ToldRequest(
            service, target, self._ended, self._took, self._goes_on, client=client
        )
        self.number = number
        self.outcome: Outcome | None = None
        """The newest part, or the answer, and who gave it."""
        self.progress = Progress(asked.choices, len(self._call.inputs[0].data))
        self.resumes = 0
        """The times that another node was asked to go on."""

    def explanation(self, now_s: float) -> Explanation | None:
        """Return why it went where it went, or why it could not; None: nothing has come of it, or nobody asks."""
        if self._request.explanation is not None or self.outcome is None:
            return self._request.explanation
        return self.outcome.picker.explain(now_s)

    def begin(self) -> None:
        """Send it on its way; its listener may be told before this returns.

        A client who names it, to have it run once, gets it whole from one node; a stream takes no such name.
        """
        is_named = bool(self._target.idempotency_key)
        self._request.submit(self._call, takes_parts=self._asked.is_streamed or not is_named)

    def cancel(self) -> None:
        """Withdraw it. Nothing happens when it is over."""
        self._request.cancel()

    def break_off(self, error: CapameshError) -> None:
        """End with an error in what has come, where nothing has ended it yet: no node is asked for more."""
        self.resumes = MOST_RESUMES
        self._request.break_off(error)

    def _took(self, part: Part) -> None:
        pieces, error = self._read(part.outcome)
        if pieces:
            self._listener.take(self, pieces, part)
        else:  # a sign of life, while a long prompt is read
            part.release()
        if error is not None:
            self._request.break_off(error)

    def _ended(self, outcome: Outcome | CapameshError) -> None:
        """Take the end of the request: its last answer, or an error after which nothing goes on."""
        if self._is_whole:
            self._listener.ended(self, None)
            return
        if isinstance(outcome, CapameshError):
            self._listener.ended(self, self._told(outcome))
            return
        pieces, error = self._read(outcome)
        if pieces:
            self._listener.take(self, pieces, None)
        if error is None and not self.progress.is_over:
            error = ProtocolViolation("the node's answer is over before all of its choices are")
        self._listener.ended(self, error)

    def _read(self, outcome: Outcome) -> tuple[list[Piece], ProtocolViolation | None]:
        """Return the pieces in an answer, which are counted in, up to the first that is none, and what is wrong with that."""
        found: list[Piece] = []
        try:
            for piece in read_pieces(outcome.answer):
                self.progress.take(piece)
                found.append(piece)
        except ProtocolViolation as error:
            return found, error.with_traceback(None)
        self.outcome = outcome
        return found, None

    def _goes_on(self, error: CapameshError) -> bool:
        """Return whether another node goes on after an error, which is then nobody's but the lost node's."""
        progress = self.progress
        if (
            not progress.has_begun
            or progress.ids is None
            or self.resumes >= MOST_RESUMES
            or not isinstance(error, PeerError)
            or isinstance(error, NoEndpoint | RequestKills)
            or is_refusal(error)
        ):
            return False
        self._end_full()
        outcome = self.outcome
        if progress.is_over and outcome is not None:
            self._is_whole = True
            self._request.complete(outcome)
            return True
        self.resumes += 1
        if progress.seed is None:
            progress.may_differ = True
        self._service.telemetry.resumed(self._target.model)
        self._listener.resumed(self)
        call = self._asked.call(
            self._prompt,
            progress.left(),
            sorted(progress.ended),
            progress.seed,
        )
        self._request.submit(call, takes_parts=True)
        return True

    def _end_full(self) -> None:
        """End the choices that have all tokens that they may have: there is nothing to go on with."""
        most = self._asked.max_tokens
        if most is None:
            return
        full = [
            Piece(c=choice, f="length")
            for choice, ids in self.progress.left().items()
            if len(ids) >= most
        ]
        for piece in full:
            self.progress.take(piece)
        if full:
            self._listener.take(self, full, None)

    def _told(self, error: CapameshError) -> CapameshError:
        """Return an error that says how much there was before it, and which field is too long."""
        if isinstance(error, ContextExceeded):
            error.param = self._asked.param
        count = self.progress.count
        if not self.resumes or error.parts or not self.progress.has_begun:
            return error
        told = from_wire(
            error.code,
            f"the answer broke off after {count} tokens, and no other node could go on with it: {error.message}",
        )
        told.parts = max(1, error.parts)
        return told
