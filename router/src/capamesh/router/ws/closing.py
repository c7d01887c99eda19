"""The codes with which streams are closed: those of RFC 6455 and its registry. Pure."""

from __future__ import annotations

from typing import Final

DONE: Final = 1000
"""The client has said that nothing follows, and all is answered."""
GOING_AWAY: Final = 1001
"""The router stops, or the stream was silent for too long."""
PROTOCOL: Final = 1002
POLICY: Final = 1008
"""The key is not taken any more, or what came was too slow or came to nothing."""
TOO_LARGE: Final = 1009
FAILED: Final = 1011
"""Samples could not be answered twice in a row."""
TRY_LATER: Final = 1013
"""There is no room."""
