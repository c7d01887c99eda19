"""Refuses bulk requests for a while after they have ended too many workers. Pure."""

from __future__ import annotations

from capamesh.protocol.errors import Overloaded


class BulkRefusal:
    """The time of one worker's life for which it takes no bulk request."""

    def __init__(self, lasts_s: float, now_s: float) -> None:
        """Refuse them for `lasts_s` from now on; 0: not at all."""
        self._until_s = now_s + lasts_s

    def check(self, now_s: float) -> None:
        """Raise `Overloaded` if a bulk request that comes now is refused."""
        left_s = self._until_s - now_s
        if left_s > 0:
            raise Overloaded(
                f"bulk requests have ended this node's worker again and again; it takes none for {left_s:.0f} s more",
                retry_after_s=left_s,
            )
