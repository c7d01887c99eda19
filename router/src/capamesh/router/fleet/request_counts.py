"""The requests of one model version that this router has answered, as plain numbers. Holds state, does no IO.

A request adds to the numbers in place: it is on the way of each answer.
"""

from __future__ import annotations

import math

from typing_extensions import override


class RequestCounts:
    """The counts of one version for as long as it is hosted; copies that a mirror sends are not among them."""

    __slots__ = (
        "answered",
        "answered_s",
        "failed",
        "failed_s",
        "kept",
        "kept_s",
        "last_s",
        "missed",
        "queue_us",
        "rows",
        "run_us",
    )

    def __init__(self) -> None:
        self.answered = 0
        """The requests that were answered well."""
        self.answered_s = 0.0
        """The seconds of all of them together, from the last byte read of a request to its answer."""
        self.kept = 0
        """The ones of them that no node was asked for: they got a kept answer, or that of an equal request under way."""
        self.kept_s = 0.0
        """The seconds of those together."""
        self.missed = 0
        """The requests for which an answer was looked up, and that a node ran because none was kept."""
        self.rows = 0
        """The rows of their answers; an answer without rows counts as one."""
        self.queue_us = 0.0
        """The microseconds that those which were run waited at their nodes."""
        self.run_us = 0.0
        """The microseconds that they ran there."""
        self.last_s = -math.inf
        """The time of the newest answer on the router's clock; minus infinity while there is none."""
        self.failed = 0
        """The requests that were answered with an error after a node was asked, or because none could take them."""
        self.failed_s = 0.0
        """The seconds of all of those together."""

    @override
    def __repr__(self) -> str:
        return f"RequestCounts({self.answered} answered, {self.failed} failed)"
