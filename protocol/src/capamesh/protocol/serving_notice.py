"""The line of the log for which a person waits: that a member serves now, or why it does so no more. Logs.

`serving` comes when the state of a member becomes `ready`, `not_serving` when it was ready and is not any more. A member that
is stopped says that by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_SAID_ELSEWHERE: Final = frozenset({"draining", "stopped"})


class ServingNotice:
    """Looks at each state of one member, and logs where it begins or ceases to serve."""

    def __init__(
        self, log: FilteringBoundLogger, facts: Callable[[], Mapping[str, object]]
    ) -> None:
        """`facts` returns what is said of a member that begins to serve."""
        self._log = log
        self._facts = facts
        self._is_serving = False

    def look(self, state: str, reason: str) -> None:
        """Take note of the member's state, and of the reason where it is not ready."""
        is_serving = state == "ready"
        if is_serving == self._is_serving:
            return
        self._is_serving = is_serving
        if is_serving:
            self._log.info("serving", **self._facts())
        elif state not in _SAID_ELSEWHERE:
            self._log.warning("not_serving", state=state, reason=reason)
