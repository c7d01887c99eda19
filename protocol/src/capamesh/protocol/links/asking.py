"""The requests that one side of a link has asked, and who is told the answers. IO: none but the loop's log of crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from capamesh.protocol.errors import LinkLost, PeerError, ProtocolViolation
from capamesh.protocol.links.events import Answer, ErrorReceived, LoadReceived, ResponseReceived
from capamesh.protocol.links.handlers import LoadHandler, PartsHandler, ResponseHandler

_T = TypeVar("_T")


class Askers:
    """The askers of one link. A bug in one costs its own request and not the link, on which all others wait."""

    __slots__ = ("_describe", "_loop", "loads", "requests")

    def __init__(self, loop: asyncio.AbstractEventLoop, describe: Callable[[], str]) -> None:
        """`describe` returns which link it is, for the loop's log of crashes."""
        self._loop = loop
        self._describe = describe
        self.requests: dict[int, ResponseHandler] = {}
        """The receivers of answers, by stream."""
        self.loads: dict[int, LoadHandler] = {}
        """The receivers of the peer's load, by stream."""

    def answered(self, event: ResponseReceived) -> None:
        """Tell whoever waits for it that a whole answer is here."""
        asker = self.requests.pop(event.stream, None)
        if asker is not None:
            try:
                asker.answered(Answer(event.meta, event.body))
            except Exception as crash:  # noqa: BLE001 - the loop's handler logs it
                self._crashed(crash)

    def part_answered(self, event: ResponseReceived) -> bool:
        """Tell whoever waits for it that a part of the answer is here; False: it takes none, and is told that as an error."""
        asker = self.requests.get(event.stream)
        if isinstance(asker, PartsHandler):
            self._tell(asker.part_answered, Answer(event.meta, event.body))
            return True
        if asker is not None:
            del self.requests[event.stream]
            error = PeerError("the peer answers in parts; a whole answer was asked for")
            self._tell(asker.failed, error)
        return False

    def reported(self, event: LoadReceived) -> None:
        """Tell whoever waits for it that the load is here; raise `ProtocolViolation` when nobody has probed for it."""
        asker = self.loads.pop(event.stream, None)
        if asker is None:
            raise ProtocolViolation(f"a load for the request on stream {event.stream}")
        self._tell(asker.reported, event.meta)

    def failed(self, event: ErrorReceived) -> None:
        """Tell whoever waits on the stream that the peer answered with an error."""
        asker = self.requests.pop(event.stream, None) or self.loads.pop(event.stream, None)
        if asker is not None:
            self._tell(asker.failed, event.error)

    def fail_all(self, lost: LinkLost) -> None:
        """Tell each in its turn that the link has ended; no error is shared."""
        for waiting in (self.requests, self.loads):
            for stream in list(waiting):
                asker = waiting.pop(stream, None)  # whoever was told before may have withdrawn it
                if asker is not None:
                    reported = LinkLost(lost.message)
                    reported.is_sudden = lost.is_sudden
                    self._tell(asker.failed, reported)

    def _tell(self, told: Callable[[_T], None], what: _T) -> None:
        try:
            told(what)
        except Exception as crash:  # noqa: BLE001 - the loop's handler logs it
            self._crashed(crash)

    def _crashed(self, crash: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": f"an asker on {self._describe()} crashed", "exception": crash}
        )
