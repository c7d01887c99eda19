"""One request of a stream whose answer may come in parts: each becomes a message, the last one too. No IO of its own.

A part is released when its message is on its way, so that its node sends the next one. What is written in slices of the
loop's time holds up the parts behind it, of which a node sends no more than a window.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, LocalError, ShutOut
from capamesh.protocol.oip import HEADER_LENGTH_NAME, InferResponse, encode_response_in_steps
from capamesh.router.http.errors import error_reply
from capamesh.router.http.exchange import NODE_HEADER
from capamesh.router.http.replies import JSON, OCTETS, Reply
from capamesh.router.requests.answer_parts import broken_off
from capamesh.router.requests.told_request import ToldRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.protocol.oip import InferRequest
    from capamesh.router.http.exchange import Inference, InferTarget
    from capamesh.router.requests.call import Outcome, Part
    from capamesh.router.requests.slices import Job

    Written = tuple[list[bytes | memoryview], int | None]

FINAL: Final = "triton_final_response"
"""The parameter that says of each message whether it is the last to its request, as over gRPC."""


class PartsExchange:
    """One request; it ends in one `on_reply` unless it is cancelled, and `on_part` may be told before that."""

    __slots__ = (
        "_asked",
        "_inference",
        "_is_over",
        "_job",
        "_on_part",
        "_on_reply",
        "_request",
        "_target",
        "_waiting",
        "parts",
    )

    def __init__(
        self,
        inference: Inference,
        target: InferTarget,
        on_part: Callable[[Reply, Part], None],
        on_reply: Callable[[Reply], None],
        client: str,
    ) -> None:
        """`on_part` is told of each part but the last, and releases it once it is sent. Neither may raise. `client` is the site of whoever asks."""
        self._inference = inference
        self._target = target
        self._on_part = on_part
        self._on_reply = on_reply
        self._request = ToldRequest(inference, target, self._ended, self._took, client=client)
        self._asked: InferRequest | None = None
        self._job: Job[Any] | None = None
        """The long JSON that is being written here."""
        self._waiting: deque[tuple[Outcome | CapameshError, Part | None]] = deque()
        """The parts that came while another was written, and the end, which is none."""
        self._is_over = False
        self.parts = 0
        """The parts that `on_part` was told."""

    @override
    def __repr__(self) -> str:
        return f"PartsExchange({self.parts} parts, {len(self._waiting)} waiting)"

    def run(self, asked: InferRequest) -> None:
        """Send on its way what is asked."""
        if self._inference.standing.shut_out:
            self._request.fail(ShutOut(self._inference.standing.shut_out))
            return
        self._asked = asked
        self._request.submit(asked, takes_parts=True)

    def crash(self, error: Exception) -> None:
        """End with an error."""
        self._request.crash(error)

    def cancel(self) -> None:
        """Withdraw it, for whoever asked has left."""
        self._close()
        self._request.cancel()

    # what the node sends

    def _took(self, part: Part) -> None:
        self._waiting.append((part.outcome, part))
        self._go_on()

    def _ended(self, outcome: Outcome | CapameshError) -> None:
        self._waiting.append((outcome, None))
        self._go_on()

    def _go_on(self) -> None:
        """Write what waits, in its order: short JSON at once, long in slices."""
        while self._waiting and self._job is None:
            outcome, part = self._waiting.popleft()
            if isinstance(outcome, CapameshError):
                self._end(error_reply(outcome))
                return
            self._write(outcome, part)

    def _write(self, outcome: Outcome, part: Part | None) -> None:
        asked, target, answer = self._asked, self._target, outcome.answer
        assert asked is not None  # noqa: S101 - it was sent before anything came
        try:
            steps = encode_response_in_steps(
                InferResponse(
                    target.model, answer.version, asked.id, answer.outputs, {FINAL: part is None}
                ),
                asked,
                self._inference.limits,
            )
            next(steps)
        except StopIteration as done:
            self._written(outcome, part, cast("Written", done.value))
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._refuse(error, part)
        else:
            self._job = self._inference.slices.begin(
                steps,
                lambda written: self._sliced(outcome, part, written),
                lambda error: self._refuse(error, part),
                target.model,
            )

    def _sliced(self, outcome: Outcome, part: Part | None, written: Written) -> None:
        """Go on behind a message that was written in slices."""
        self._job = None
        self._written(outcome, part, written)
        self._go_on()

    def _written(self, outcome: Outcome, part: Part | None, written: Written) -> None:
        buffers, json_bytes = written
        headers = {
            "Content-Type": JSON if json_bytes is None else OCTETS,
            NODE_HEADER: outcome.peer,
        }
        if json_bytes is not None:
            headers[HEADER_LENGTH_NAME] = str(json_bytes)
        reply = Reply(200, headers, buffers)
        if part is None:
            self._end(reply)
        else:
            self.parts += 1
            self._on_part(reply, part)

    # the end of it

    def _refuse(self, error: Exception, part: Part | None) -> None:
        """End, for `part` cannot be written, or the last one where that is None: its node is to send no more."""
        self._job = None
        self._waiting.clear()
        if isinstance(error, CapameshError) and self.parts:
            error = broken_off(error, self.parts)
        if part is not None:
            self._request.break_off(error)
        elif isinstance(error, CapameshError):
            self._end(error_reply(error))
        else:
            self._inference.log.error("request_crashed", model=self._target.model, exc_info=error)
            self._end(error_reply(LocalError("the router failed on this request; see its log")))

    def _end(self, reply: Reply) -> None:
        if not self._is_over:
            self._close()
            self._on_reply(reply)

    def _close(self) -> None:
        self._is_over = True
        self._waiting.clear()
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
