"""Tells how many rows of batch jobs the nodes of one model have room for, and lets their calls in by that alone. Pure.

Jobs fill a part of what the nodes' limits allow, by a sum and without chance: who is refused for certain need not try. All is
counted in rows, for a call of a job has a whole batch of them. Tenants' shares, their wants and what is kept for urgent requests
are of those that people wait for: a job takes nothing of them, and a job that is refused wants nothing of them. That tenants and
jobs get equal parts of the room is the matter of whoever sends their calls.

A copy for a shadow version is no call of a job, though nodes let it wait as one: it is a request of the lowest priority, and
given up by chance (`shedding`). Nobody counts on any one copy, and no room is kept for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import Overloaded
from capamesh.router.admission.bulk_share import NO_LIMIT_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.router.admission.saturation import Saturation
    from capamesh.router.fleet.replica import Replica

LEAST_RETRY_S: Final = 0.02
MOST_RETRY_S: Final = 2.0
"""A call that is refused is told to come again after a run of the model, within these (guess)."""


class BulkAdmission:
    """The calls of jobs of one model at one router. Every `now_s` is the caller's monotonic clock in seconds."""

    __slots__ = ("_model", "_nodes", "rows")

    def __init__(self, model: str, nodes: Saturation) -> None:
        self._model = model
        self._nodes = nodes
        self.rows = 0
        """This router's rows of jobs that were let in and have not ended."""

    @override
    def __repr__(self) -> str:
        return f"BulkAdmission({self._model!r}, {self.rows} rows under way)"

    def room(self, replicas: Sequence[Replica], now_s: float) -> int:
        """Return the rows that may be sent beside those under way; a call is let in while there are any.

        So the last may go over by the rows of one call, and a call of more rows than there is room for runs by itself.
        """
        nodes = self._nodes
        nodes.look(replicas, now_s)
        return max(0, int(min(nodes.bulk_room, NO_LIMIT_ROWS)) - self.rows)

    def admit(self, replicas: Sequence[Replica], rows: int, now_s: float) -> None:
        """Let a call of so many rows in, or raise `Overloaded` with `retry_after_s` in seconds.

        Where nobody can be asked it is let in: that is not overload, and whoever looks for a node says why.
        """
        nodes = self._nodes
        if not self.room(replicas, now_s) and (nodes.is_known or nodes.bulk_room > 0):
            retry_s = min(MOST_RETRY_S, max(LEAST_RETRY_S, nodes.run_s))
            raise Overloaded(
                f"model {self._model!r} has no room for jobs: {self.rows} rows of jobs of this router are under way, and the"
                f" nodes that can be reached have room for {int(nodes.bulk_room)}; try again in {retry_s:.2f} s",
                retry_s,
            )
        self.rows += rows

    def leave(self, rows: int) -> None:
        """Count the rows of a call that has ended no more."""
        self.rows -= rows
