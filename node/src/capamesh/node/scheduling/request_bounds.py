"""Bounds what a request may take before it is refused: memory, shared by all models of a device, and time. Pure.

What a run takes was measured when its model was loaded, so that nobody has to find out by running it: the memory
of a run that is too large would take the whole process, and everybody's requests with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.node.devices.request_digest import request_digest
from capamesh.node.scheduling.run_need import UNMEASURED_TIMES, RunNeed, elements_of
from capamesh.node.scheduling.suspicion import Suspicion, size_of
from capamesh.protocol.errors import InvalidRequest, SizeRefused, TooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.node.scheduling.pending_request import PendingRequest
    from capamesh.node.scheduling.plan import BatchPlan
    from capamesh.node.scheduling.service_profile import ServiceProfile
    from capamesh.protocol.tensors import Tensor

COUNTED_SHARE: Final = 1 / 64
"""A request that takes less of the memory is not counted (guess: what many of those take is the matter of the number
of rows in flight, and small runs reuse each other's memory)."""
DOUBT: Final = 0.5
"""A run is refused for its time when so much of what is expected is more than there is (guess: a profile is made of few
runs, and on a machine that started other things too it is twice too long)."""
RETRY_S: Final = 1.0
"""Seconds after which a request that found no memory free is told to come again (guess: a large run's time)."""


class MemoryBudget:
    """The memory of one device for runs: what all models together may take, and what large runs take of it now."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes` is for models and runs together; 0: it is not known, and nothing is refused."""
        self.limit_bytes = limit_bytes
        self.models_bytes = 0
        """The bytes that the loaded models hold at rest; kept by the owner."""
        self.held_bytes = 0
        """The bytes held by large requests that are accepted and have not ended."""

    @override
    def __repr__(self) -> str:
        return f"MemoryBudget({self.held_bytes} of {self.room_bytes} bytes held)"

    @property
    def room_bytes(self) -> int:
        """Return the bytes that runs may take together."""
        return max(0, self.limit_bytes - self.models_bytes)


class RunBounds:
    """Refuses what one model cannot run here: for its memory, or in the time that is left."""

    def __init__(
        self,
        plan: BatchPlan,
        need: RunNeed | None,
        profile: ServiceProfile | None,
        budget: MemoryBudget,
        *,
        watchdog_s: float = math.inf,
        suspicion: Suspicion | None = None,
    ) -> None:
        """`need` and `profile` are None where the model could not be measured.

        No run may take longer than `watchdog_s`, whatever its caller allows.
        """
        self._kept = frozenset(state.input for state in plan.states)
        is_open = any(
            not spec.shape or min(spec.shape[1:] if plan.is_batching else spec.shape, default=0) < 0
            for spec in plan.inputs
            if spec.name not in self._kept
        )
        self._need = need
        self._profile = profile
        self._budget = budget
        self._watchdog_s = watchdog_s
        self._is_open = is_open
        self.suspicion = suspicion or Suspicion()
        self._known_rows = profile.points[-1].rows if profile is not None else 0
        self.usual_rows = (
            -1 if is_open or need is None or self.suspicion.is_looking else self._known_rows
        )
        """A request of no more rows needs no look; -1: each does."""

    @property
    def most_rows(self) -> int:
        """The most rows that the memory holds at once; 0: that is not known, or depends on what is in them."""
        if self._need is None or self._is_open or not self._budget.limit_bytes:
            return 0
        return max(1, self._budget.room_bytes // max(1, self._need.row_bytes))

    def admit(self, request: PendingRequest, now_s: float, slowdown: float = 1.0) -> None:
        """Take from the budget what `request` will need, until `release`; its rows are known.

        `slowdown` is what runs take over what was measured at load; above 1 it is not counted, for it may pass.

        Raises `TooLarge`: it can never fit into the memory; `InvalidRequest`: it cannot be done in time, or this very one
        ended the worker; `SizeRefused`: other large requests have the memory now, or ones as large ended the worker.
        """
        given_rows = rows = max(1, request.rows)
        if request.parts is not None and self._known_rows:
            rows = min(rows, self._known_rows)  # no run of it has more rows than a batch
        own = self._own(request)
        given = sum(tensor.size_bytes for tensor in own)
        need = self._need
        if need is None:
            needed = int(UNMEASURED_TIMES * given)
            self._check_memory(needed, rows, "", 0)
        else:
            elements = -(-elements_of(own) // given_rows)
            of_row = f" of {elements} elements" if self._is_open else ""
            needed = given + need.bytes_of(rows, elements)
            self._check_memory(needed, rows, of_row, need.bytes_of(1, elements))
            if (
                rows > self._known_rows or elements > need.elements
            ):  # what is usual is late, not wrong
                self._check_time(request, rows, elements, of_row, now_s, slowdown)
        suspicion = self.suspicion
        is_trial = suspicion.is_looking and suspicion.check(
            own, self.large_bytes(request, own), now_s
        )
        self._hold(request, needed, rows)
        if is_trial:
            request.is_alone, request.key = True, object()
            suspicion.trial = request

    def identity(self, request: PendingRequest) -> tuple[bytes, int]:
        """Return the digest of a request and its `large_bytes`."""
        own = self._own(request)
        return request_digest(own), self.large_bytes(request, own)

    def large_bytes(self, request: PendingRequest, own: Sequence[Tensor]) -> int:
        """Return the bytes of a run's inputs where they are more than was measured, else 0; `own` is what the caller gave."""
        need = self._need
        if need is None:
            return 0
        given = rows = max(1, request.rows)
        if request.parts is not None and self._known_rows:
            rows = min(rows, self._known_rows)
        is_large = rows > self._known_rows or (
            self._is_open and elements_of(own) > need.elements * given
        )
        return size_of(own) * rows // given if is_large else 0

    def _own(self, request: PendingRequest) -> Sequence[Tensor]:
        """Return what a caller gave, without the states that the node keeps."""
        kept = self._kept
        if not kept:
            return request.inputs
        return [tensor for tensor in request.inputs if tensor.name not in kept]

    def release(self, request: PendingRequest) -> None:
        """Give back what `request` held, and let in another trial if it was one; again is harmless."""
        self._budget.held_bytes -= request.held_bytes
        request.held_bytes = 0
        if request is self.suspicion.trial:
            self.suspicion.trial = None

    def _check_memory(self, needed: int, rows: int, of_row: str, row_bytes: int) -> None:
        room = self._budget.room_bytes
        if not self._budget.limit_bytes or needed <= room:
            return
        most = room * rows // needed
        raise TooLarge(
            f"a request of {rows} rows{of_row} takes about {needed} bytes of memory here"
            + (f" ({row_bytes} bytes a row, by what was measured)" if row_bytes else "")
            + f"; runs have {room} bytes on this node: "
            + (f"give at most {most} such rows at once" if most else "give less at once")
        )

    def _hold(self, request: PendingRequest, needed: int, rows: int) -> None:
        budget = self._budget
        room = budget.room_bytes
        if not budget.limit_bytes or needed < COUNTED_SHARE * room:
            return
        if needed > room - budget.held_bytes:
            raise SizeRefused(
                f"a request of {rows} rows takes about {needed} bytes of memory, and other large ones hold"
                f" {budget.held_bytes} of {room} now; try another node",
                retry_after_s=RETRY_S,
            )
        budget.held_bytes += needed
        request.held_bytes = needed

    def _check_time(
        self,
        request: PendingRequest,
        rows: int,
        elements: int,
        of_row: str,
        now_s: float,
        slowdown: float,
    ) -> None:
        if self._profile is None or self._need is None:
            return
        needed_s = self._profile.seconds_at(rows) + self._need.more_s(rows, elements)
        needed_s *= min(1.0, slowdown)
        left_s = math.inf if request.deadline_s is None else request.deadline_s - now_s
        if DOUBT * needed_s <= min(left_s, self._watchdog_s):
            return
        allowed_s = min(left_s, self._watchdog_s)
        most = int(rows * allowed_s / needed_s)
        until = (
            f"{left_s:.1f} s are left before its deadline"
            if left_s <= self._watchdog_s
            else f"no run may take more than {self._watchdog_s:g} s on this node"
        )
        raise InvalidRequest(
            f"a request of {rows} rows{of_row} takes about {needed_s:.1f} s here"
            f" ({needed_s / rows * 1e3:.3g} ms a row, by what was measured), and {until}: "
            + (
                f"give at most {most} such rows at once"
                if most
                else "give less at once, or more time"
            )
        )
