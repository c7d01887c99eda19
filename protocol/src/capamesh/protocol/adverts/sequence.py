"""The order of one sender's envelopes: which of two is newer, and how a publisher numbers its own. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

FUTURE_LIMIT_NS = 600 * 1_000_000_000
"""The most that a boot time may be ahead of a receiver's clock: 10 minutes, the clocks' allowed difference."""

MAX_COUNT = 2**63 - 1
"""The largest boot time and counter on the wire: what fits a signed 64-bit integer everywhere."""


@dataclass(frozen=True, slots=True, order=True)
class Sequence:
    """Orders one sender's envelopes: first by when the sender started, then by how many it sent."""

    boot_ns: int
    """The time at which the sender started, in nanoseconds since the epoch, raised where needed to exceed its last."""
    counter: int
    """The number of envelopes that the sender had sealed since then."""


def is_acceptable(known: Sequence | None, new: Sequence) -> bool:
    """Return whether `new` may replace what was known of its sender; the same sequence again may not."""
    return known is None or new > known


def boot_ns_after(time_ns: int, last_ns: int | None) -> int:
    """Return the boot time to number with at wall clock `time_ns`, after a run that used `last_ns`.

    It exceeds `last_ns`, so that a clock that was set back does not mute a node. A `last_ns` more than
    `FUTURE_LIMIT_NS` ahead is passed over: no receiver with a right clock accepted it, one whose clock was ahead too lets it be replaced,
    and to exceed it would mute the node until that day. The caller persists the result before it publishes.
    """
    if last_ns is None or last_ns - time_ns > FUTURE_LIMIT_NS:
        return time_ns
    return max(time_ns, last_ns + 1)


class SequenceSource:
    """Numbers what one running sender publishes. Pure: the boot time comes from `boot_ns_after`.

    After the wall clock was set forward (a machine that had no time at start), a new source with a
    new boot time continues the order.
    """

    def __init__(self, boot_ns: int) -> None:
        self._boot_ns = boot_ns
        self._sent = 0

    @property
    def boot_ns(self) -> int:
        """The boot time it numbers with."""
        return self._boot_ns

    def next(self) -> Sequence:
        """Return a sequence newer than all this source gave before."""
        self._sent += 1
        return Sequence(self._boot_ns, self._sent)

    @override
    def __repr__(self) -> str:
        return f"SequenceSource({self._sent} sent since boot {self._boot_ns})"
