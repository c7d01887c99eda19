"""The witnesses that it takes to say that a request is wrong, fails its model, or ends workers. Pure.

The only witness of a worker's end is its node: it drops the link, and names another process. Nor does anything but its
word show that a request is wrong. One node may have several addresses, and one invite several nodes, so that one member
could have any request refused that comes its way. So the word must come from two nodes, and of two invites, as far as there
are two that host the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from capamesh.protocol.errors import CapameshError, LinkLost, PeerError, is_refusal
from capamesh.protocol.ids import PeerId


class Witness(NamedTuple):
    """A node at which a request's process ended, or may."""

    peer: PeerId
    invite: str
    """The invite by which it was let into the network; empty if it is not known, which is no other invite."""


def is_failure(end: CapameshError | str) -> bool:
    """Return whether an attempt ended with a node's word that the model's run failed, or with a strange answer."""
    return isinstance(end, PeerError) and not isinstance(end, LinkLost) and not is_refusal(end)


def are_enough(heard: Collection[Witness], replicas: Iterable[Witness]) -> bool:
    """Return whether what was heard of a request holds against all `replicas` of its model."""
    peers = {each.peer for each in heard}
    invites = {each.invite for each in heard if each.invite}
    if not peers:
        return False
    is_of_two_peers, is_of_two_invites = len(peers) > 1, len(invites) > 1
    for replica in replicas:
        if is_of_two_peers and is_of_two_invites:
            break
        if not is_of_two_peers and replica.peer not in peers:
            return False
        if not is_of_two_invites and replica.invite and replica.invite not in invites:
            return False
    return True
