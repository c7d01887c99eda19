"""Decides which requests of a model are not run because such ones have ended their worker. Pure: times are given."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.node.devices.request_digest import request_digest
from capamesh.protocol.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from capamesh.node.contract.verdict import Verdict
    from capamesh.protocol.tensors import Tensor


class Suspicion:
    """The suspicions that earlier lives of a worker left of one model's requests. `ended` may be called in any thread."""

    def __init__(self, verdict: Verdict | None = None, now_s: float = 0.0) -> None:
        """`verdict` holds from `now_s` on; None: nothing is known against the model."""
        self._refused: dict[bytes, float] = {}
        self._suspects: set[bytes] = set()
        self._survived: deque[bytes] = deque()
        self._large_bytes = 0
        self._large_until_s = self._alone_until_s = -math.inf
        if verdict is not None:
            self._refused = {
                bytes.fromhex(digest): now_s + left_s for digest, left_s in verdict.refused.items()
            }
            self._suspects = {bytes.fromhex(digest) for digest in verdict.suspects}
            self._large_bytes = verdict.large_bytes
            self._large_until_s = now_s + verdict.large_s
            self._alone_until_s = now_s + verdict.alone_s

    @override
    def __repr__(self) -> str:
        return f"Suspicion({len(self._refused)} refused, {len(self._suspects)} suspects)"

    @property
    def is_looking(self) -> bool:
        """Return whether `check` may refuse anything, now or later."""
        return bool(self._refused) or self._large_bytes > 0

    def is_alone(self, now_s: float) -> bool:
        """Return whether each request is to be run by itself."""
        return now_s < self._alone_until_s

    def check(self, inputs: Sequence[Tensor], now_s: float) -> None:
        """Raise `TooLarge` or `InvalidRequest` where a request is like one that ended the worker."""
        if now_s < self._large_until_s:
            size = size_of(inputs)
            if size >= self._large_bytes:
                raise TooLarge(
                    f"a request of {size} bytes of inputs; one of {self._large_bytes} ended this node's worker, and none"
                    f" as large is run here for {self._large_until_s - now_s:.0f} s more: split it"
                )
        if not self._refused:
            return
        digest = request_digest(inputs)
        until_s = self._refused.get(digest)
        if until_s is None:
            return
        if until_s <= now_s:
            del self._refused[digest]
            return
        raise InvalidRequest(
            "this very request ended the process that ran it, more than once; it is not run again on this node for"
            f" {until_s - now_s:.0f} s"
        )

    def ended(self, digest: bytes) -> None:
        """The run of a request has ended, and the process has not."""
        if digest in self._suspects:
            self._suspects.discard(digest)
            self._survived.append(digest)

    def survived(self) -> list[str]:
        """Return the suspects that ended well since the last time, in hexadecimal."""
        found: list[str] = []
        while self._survived:
            found.append(self._survived.popleft().hex())
        return found


def size_of(inputs: Iterable[Tensor]) -> int:
    """Return the bytes of a request's inputs: what its size class is told by."""
    return sum(tensor.size_bytes for tensor in inputs)
