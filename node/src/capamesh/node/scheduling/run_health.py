"""Tells people whether a model's runs succeed; no request is refused for it. Pure.

A model that is loaded is advertised as ready, though every run of it may fail. It is not taken away for that, for
its callers may be wrong and not it, but it is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.node.devices.request_digest import request_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.tensors import Tensor

FAILED_REQUESTS: Final = 8
"""Different requests whose runs failed, one after the other without one that succeeded (guess: as many callers are
not all wrong)."""


class RunHealth:
    """The outcomes of a model's latest runs."""

    __slots__ = ("_doubt", "_failed", "_latest", "is_doubted")

    def __init__(self, doubt: str = "") -> None:
        """`doubt` is why no run of it has succeeded when it was loaded; empty where one has."""
        self._doubt = doubt
        self._failed: set[bytes] = set()
        self._latest = ""
        self.is_doubted = bool(doubt)
        """True if a run that succeeds is of interest."""

    def succeeded(self) -> None:
        """A request was answered with outputs."""
        self._doubt = self._latest = ""
        self._failed.clear()
        self.is_doubted = False

    def failed(self, inputs: Sequence[Tensor], message: str) -> None:
        """The run of a request failed; `message` says how."""
        self.failed_digest(request_digest(inputs), message)

    def failed_digest(self, digest: bytes, message: str) -> None:
        """The run of the request of this `digest` failed, whose inputs are kept no more."""
        self.is_doubted = True
        self._latest = message
        if len(self._failed) < FAILED_REQUESTS:
            self._failed.add(digest)

    @property
    def reason(self) -> str:
        """Return what is wrong, for people; empty while nothing is known to be."""
        if len(self._failed) >= FAILED_REQUESTS:
            return (
                f"degraded: the runs of the last {FAILED_REQUESTS} different requests or more have failed, the latest:"
                f" {self._latest}"
            )
        return f"no run has succeeded yet: {self._doubt}" if self._doubt else ""
