"""Decides which requests of a model are not run because such ones have ended their worker. Pure: times are given."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.node.devices.request_digest import request_digest
from capamesh.protocol.errors import InvalidRequest, SizeRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from capamesh.node.contract.verdict import Verdict
    from capamesh.protocol.tensors import Tensor


TRIAL_S: Final = 1.0
"""Seconds after which to come again while a request of a refused size is tried (guess: a large run's time)."""


class Suspicion:
    """The suspicions that earlier lives of a worker left of one model's requests. `ended` may be called in any thread."""

    def __init__(
        self,
        verdict: Verdict | None = None,
        now_s: float = 0.0,
        on_survived: Callable[[], None] = lambda: None,
    ) -> None:
        """`verdict` holds from `now_s` on; None: nothing is known against the model.

        `on_survived` is called, in any thread, as soon as `survived` has news: the worker may be ended from outside a moment later.
        """
        self._on_survived = on_survived
        self._refused: dict[bytes, float] = {}
        self._suspects: set[bytes] = set()
        self._survived: deque[bytes] = deque()
        self._refused_bytes = self._survived_bytes = 0
        self._refused_until_s = self._alone_until_s = -math.inf
        self.trial: object = None
        """The request of a refused size that is tried now; kept by the owner. No other is let in until it has ended."""
        if verdict is not None:
            self._refused = {
                bytes.fromhex(digest): now_s + left_s for digest, left_s in verdict.refused.items()
            }
            self._suspects = {bytes.fromhex(digest) for digest in verdict.suspects}
            self._refused_bytes = verdict.refused_bytes
            self._refused_until_s = now_s + verdict.refused_s
            self._alone_until_s = now_s + verdict.alone_s

    @override
    def __repr__(self) -> str:
        return f"Suspicion({len(self._refused)} refused, {len(self._suspects)} suspects)"

    @property
    def is_looking(self) -> bool:
        """Return whether `check` may refuse anything, now or later."""
        return bool(self._refused) or self._refused_bytes > 0

    def is_alone(self, now_s: float) -> bool:
        """Return whether each request is to be run by itself."""
        return now_s < self._alone_until_s

    def check(self, inputs: Sequence[Tensor], large_bytes: int, now_s: float) -> bool:
        """Return whether a request is a trial of a size that was refused: it runs alone. See `RunBounds.large_bytes`.

        Raises:
            InvalidRequest: this very request ended the worker.
            SizeRefused: such large ones did.
        """
        if self._refused:
            digest = request_digest(inputs)
            until_s = self._refused.get(digest, -math.inf)
            if until_s > now_s:
                raise InvalidRequest(
                    "this very request ended the process that ran it, more than once; it is not run again on this node for"
                    f" {until_s - now_s:.0f} s"
                )
            self._refused.pop(digest, None)
        most = self._refused_bytes
        if not most or large_bytes < most:
            return False
        left_s = self._refused_until_s - now_s
        if self.trial is not None:
            left_s = TRIAL_S
        if left_s > 0:
            when = "now" if self.trial is not None else f"in {left_s:.1f} s"
            raise SizeRefused(
                f"a request of {large_bytes} bytes of inputs; different ones of {most} or less ended this node's worker, and"
                f" one as large is tried {when}: send less at once, or try another node",
                left_s,
            )
        return True

    def ended(self, digest: bytes, large_bytes: int) -> None:
        """The run of a request has ended, and the process has not; see `RunBounds.large_bytes`."""
        if digest in self._suspects:
            self._suspects.discard(digest)
            self._survived.append(digest)
            self._on_survived()
        if 0 < self._refused_bytes <= large_bytes:
            self._refused_bytes, self._survived_bytes = 0, large_bytes
            self._on_survived()

    def survived(self) -> tuple[tuple[str, ...], int]:
        """Return the suspects that ended well since the last time, in hexadecimal, and the bytes of a trial that did."""
        found: list[str] = []
        while self._survived:
            found.append(self._survived.popleft().hex())
        size_bytes, self._survived_bytes = self._survived_bytes, 0
        return tuple(found), size_bytes


def size_of(inputs: Iterable[Tensor]) -> int:
    """Return the bytes of a request's inputs: what its size class is told by."""
    return sum(tensor.size_bytes for tensor in inputs)
