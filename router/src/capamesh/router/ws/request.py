"""One request of a stream, from its message to its reply. No IO of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from capamesh.protocol.oip import decode_request_in_steps
from capamesh.router.http.exchange import Exchange
from capamesh.router.ws.parts import PartsExchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.protocol.oip import InferRequest
    from capamesh.router.http.exchange import Inference, InferTarget
    from capamesh.router.http.replies import Reply
    from capamesh.router.requests.call import Part
    from capamesh.router.requests.slices import Job


class StreamRequest:
    """One request under way; it ends in one reply unless it is cancelled."""

    __slots__ = ("_exchange", "_inference", "_job", "_mark", "_target", "asked_id")

    def __init__(
        self,
        inference: Inference,
        target: InferTarget,
        mark: Callable[[InferRequest], InferRequest],
        on_reply: Callable[[Reply], None],
        on_part: Callable[[Reply, Part], None] | None,
        client: str,
    ) -> None:
        """`mark` makes a request one of the stream; `on_reply` is told once, maybe before `begin` returns.

        `on_part` is told of the parts of the answer before that, and releases them; None: it comes whole. `client` is the site of whoever asks.
        """
        self._inference = inference
        self._target = target
        self._mark = mark
        self._exchange: Exchange | PartsExchange
        if on_part is None:
            self._exchange = Exchange(inference, target, on_reply, client)
        else:
            self._exchange = PartsExchange(inference, target, on_part, on_reply, client)
        self._job: Job[Any] | None = None
        """The long JSON that is being read."""
        self.asked_id = ""
        """The id that the client gave it; empty: none, or it is not read yet."""

    @property
    def parts(self) -> int:
        """Return how many parts of the answer came before its last."""
        exchange = self._exchange
        return exchange.parts if isinstance(exchange, PartsExchange) else 0

    def begin(self, body: memoryview, json_bytes: int | None) -> None:
        """Read a request and send it on its way: short JSON at once, long in slices."""
        inference, target = self._inference, self._target
        try:
            steps = decode_request_in_steps(
                target.model,
                target.version,
                body,
                json_bytes,
                inference.limits,
                inference.forms.inputs,
            )
            next(steps)
        except StopIteration as done:
            self.run(cast("InferRequest", done.value))
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self.crash(error)
        else:
            self._job = inference.slices.begin(steps, self.run, self.crash, target.model)

    def run(self, asked: InferRequest) -> None:
        """Send on its way what is asked."""
        self._job = None
        self.asked_id = asked.id
        self._exchange.run(self._mark(asked))

    def crash(self, error: Exception) -> None:
        """End with an error."""
        self._job = None
        self._exchange.crash(error)

    def cancel(self) -> None:
        """Withdraw it, for whoever asked has left."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        self._exchange.cancel()
