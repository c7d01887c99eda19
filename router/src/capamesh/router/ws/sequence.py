"""The sequence that a stream is, where its model remembers: begun, gone on with, and begun anew when its state is gone. Pure but for ids that it draws."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from capamesh.router.requests.parameters import SEQUENCE_END, SEQUENCE_ID, SEQUENCE_START

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.protocol.oip import InferRequest
    from capamesh.router.http.replies import Reply

OK: Final = 200
NOT_RUN: Final = frozenset({400, 401, 403, 413, 429, 503})
"""The statuses of requests that no node has run: the state is as it was."""
UNKNOWN: Final = "sequence_unknown"
_ID_BYTES: Final = 12
"""Nobody guesses the id of another's sequence."""


class StreamSequence:
    """The sequence of one stream, which names it for its client."""

    __slots__ = ("_draw", "_id", "_is_ended", "is_open")

    def __init__(self, draw: Callable[[int], str] = secrets.token_hex) -> None:
        self._draw = draw
        self._id = draw(_ID_BYTES)
        self._is_ended = False
        self.is_open = False
        """A request of it was answered, and none has ended it."""

    def marked(self, asked: InferRequest) -> InferRequest:
        """Return a request as one of this sequence, unless it names one itself."""
        parameters = asked.parameters
        if SEQUENCE_ID in parameters:
            self._is_ended = False
            return asked
        self._is_ended = parameters.get(SEQUENCE_END) is True
        marks = {SEQUENCE_ID: self._id, SEQUENCE_START: not self.is_open}
        return asked.replace(parameters={**parameters, **marks})

    def replied(self, reply: Reply, *, may_go_on: bool = True) -> None:
        """Note the reply to the last request; where its state is gone, or must not go on, the next one begins anew."""
        if reply.status == OK:
            self.is_open = not self._is_ended
            if self._is_ended:
                self._begin_anew()
        elif (
            not may_go_on
            or reply.status not in NOT_RUN
            or reply.headers.get("X-Capamesh-Error") == UNKNOWN
        ):
            self._begin_anew()

    def _begin_anew(self) -> None:
        self.is_open = False
        self._id = self._draw(_ID_BYTES)
