"""Tells of TLS handshakes that this side refused, which event loops keep to themselves. Reads no clock, logs.

asyncio and uvloop mention a failed handshake of an accepted connection in debug mode alone, and the protocol
behind it never hears of it. Both make their TLS objects by `SSLContext.sslobject_class`, an attribute meant
to be replaced, so that is where a refusal can be seen. A peer that just hangs up or never goes on is none.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from typing_extensions import override

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

TELL_EVERY_S: Final = 1.0
"""Seconds between two lines on refusals (guess: soon enough for a person, seldom enough for a log that strangers can write to)."""

_WORDS: Final = {
    "HTTP_REQUEST": "it speaks HTTP, not TLS",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no certificate of a member",
}
"""OpenSSL's reasons (sslerr.h) as they look from here."""


class HandshakeRefusals:
    """Logs `handshake_refused` with the reason, once in `TELL_EVERY_S`, and how many there were since."""

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._log = log
        self._clock = clock
        self._count = 0
        self._next_s = float("-inf")

    def watch(self, context: ssl.SSLContext) -> None:
        """Notice every handshake that fails on this context from now on."""
        noted = self._refused

        class WatchedObject(ssl.SSLObject):
            @override
            def do_handshake(self) -> None:
                try:
                    super().do_handshake()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError):
                    raise
                except ssl.SSLError as error:
                    noted(error)
                    raise

        context.sslobject_class = WatchedObject

    def _refused(self, error: ssl.SSLError) -> None:
        self._count += 1
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._log.warning("handshake_refused", reason=reason_of(error), count=self._count)
        self._count, self._next_s = 0, now_s + TELL_EVERY_S


def reason_of(error: ssl.SSLError) -> str:
    """Return in words why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not one of this network: {error.verify_message}"
    reason = error.reason or str(error)
    return _WORDS.get(reason, reason.replace("_", " ").lower())
