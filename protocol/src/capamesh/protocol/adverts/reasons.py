"""The reasons for which an envelope or an advert is not accepted, and whether its forwarder is to blame. Pure."""

from __future__ import annotations

from enum import StrEnum


class RejectReason(StrEnum):
    """The `reason` of an `AdvertRejected`; the values are counted in metrics and never change."""

    MALFORMED = "malformed"
    """The bytes are not an envelope."""
    OVERSIZE = "oversize"
    """The bytes are over the size limit; nothing of them was read."""
    VERSION = "version"
    """The envelope is of a wire version that this program does not read."""
    NETWORK = "network"
    """The envelope belongs to another network."""
    SIGNATURE = "signature"
    """The sender's key did not sign these bytes."""
    MEMBERSHIP = "membership"
    """The sender is no member now, or its role may not send this kind."""
    FUTURE = "future"
    """The envelope or its sequence is dated too far ahead of this clock."""
    STALE = "stale"
    """The envelope is too old."""
    FIELD = "field"
    """A field of the body is missing, of a wrong type or over a limit."""
    QUOTA = "quota"
    """The sender's invite has admitted as many members as it may, or they take all the memory that is for them."""


# From gossipsub's validator results: what no honest forwarder can pass on is Reject (a P4 penalty);
# what depends on a clock, on the newest revocation list or on the program's version is Ignore.
_BLAMED = frozenset(
    {
        RejectReason.MALFORMED,
        RejectReason.OVERSIZE,
        RejectReason.SIGNATURE,
        RejectReason.FIELD,
    }
)


def is_forwarder_to_blame(reason: str) -> bool:
    """Return whether a gossip validator answers Reject for `reason` rather than Ignore."""
    return reason in _BLAMED
