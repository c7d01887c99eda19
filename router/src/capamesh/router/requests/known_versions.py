"""Tells what is known of the versions whose answers may be kept, and counts what their calls came to. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from capamesh.protocol.adverts import Scheduling
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.rules.constraints import ANYWHERE

if TYPE_CHECKING:
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.replica import Replica

NEWCOMER_S: Final = 600.0
"""A node is a newcomer for so long after its link came up, where others of the version were there before (guess: time for its
answers to be compared, and for a node that fails to be found out)."""
TOGETHER_S: Final = 10.0
"""Nodes whose links came up within this time came together (guess: a router that starts links all nodes within seconds)."""


class Tally:
    """Counts what the calls of one model came to."""

    __slots__ = ("hit", "joined", "miss", "not_kept", "passed_by", "shared")

    def __init__(self) -> None:
        self.hit = 0
        """The calls that were answered with a kept answer."""
        self.joined = 0
        """The calls that were answered by the run of an equal one."""
        self.miss = 0
        """The calls whose answer this router has not kept."""
        self.shared = 0
        """The number of these that were answered with what another router has kept."""
        self.passed_by = 0
        """The calls that were run as if there were no cache."""
        self.not_kept = 0
        """The answers that were not kept though their calls were looked up."""

    def results(self) -> list[tuple[str, int]]:
        """Return the results that there were, and how often."""
        counted = [
            ("hit", self.hit),
            ("joined", self.joined),
            ("miss", self.miss),
            ("shared", self.shared),
            ("passed_by", self.passed_by),
        ]
        return [one for one in counted if one[1]]


class Known:
    """Tells for a short time whether the answers of a version may be kept."""

    __slots__ = ("at_s", "digest", "first_s", "picker", "replicas", "tally")

    def __init__(self, served: ServedModel, digest: str, tally: Tally, now_s: float) -> None:
        self.tally = tally
        self.replicas = replicas = served.hosted.replicas
        self.at_s = now_s
        self.digest = digest
        """The digest of its file; empty: its answers are not kept."""
        self.first_s = math.inf
        """The time when the first of its nodes was linked that are there."""
        for replica in replicas:
            linked_s = replica.endpoint.linked_s
            if -math.inf < linked_s < self.first_s:
                self.first_s = linked_s
        shape = RequestShape(served.model, served.version, 0, "")
        self.picker = RequestPicker(served, ANYWHERE, shape)
        """Stands for the one of a call that was sent nowhere."""


def is_newcomer(replica: Replica, known: Known, now_s: float) -> bool:
    """Return whether a replica's node came when others of the version were there, and not long ago."""
    linked_s = replica.endpoint.linked_s
    return now_s - linked_s < NEWCOMER_S and linked_s > known.first_s + TOGETHER_S


def digest_of(replicas: tuple[Replica, ...]) -> str:
    """Return the digest of the file that all replicas have, if that says what they answer; else an empty text."""
    digest = ""
    for replica in replicas:
        offer = replica.offer
        if (
            not offer.is_deterministic
            or not offer.is_idempotent
            or offer.scheduling is not Scheduling.PLAIN
            or offer.max_parts
            or (digest and offer.digest != digest)
        ):
            return ""
        digest = offer.digest
    return digest
