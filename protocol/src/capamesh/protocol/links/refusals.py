"""Tells of TLS handshakes that this side refused. Reads no clock, logs.

The protocol behind such a connection never hears of it. A peer that just hangs up or never goes on is not refused.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

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

    def note(self, error: ssl.SSLError) -> None:
        """Count a handshake that has failed, and tell of it."""
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
