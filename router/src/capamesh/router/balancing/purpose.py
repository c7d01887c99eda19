"""The purposes of choosing a replica. Pure."""

from __future__ import annotations

import enum
from typing import Final


class Purpose(enum.Enum):
    """The purpose for which a request's attempts ask for a replica: it decides which replicas are worth it."""

    FIRST = "first"
    """The first attempt, of the version that was just picked."""
    RETRY = "retry"
    """Another attempt in place of one that was lost or refused, of any version that may have the request."""
    HEDGE = "hedge"
    """A second attempt beside one that is slow: it goes to no replica that is not well."""
    CROSS_CHECK = "cross-check"
    """A second opinion on what a replica calls the caller's fault, of the same version and from one that is well."""
    OTHER_INVITE = "other invite"
    """The word of another invite on that, of the same version; it is worth asking one that is not well."""


FIRST: Final = Purpose.FIRST
"""A name of its own: until Python 3.12 asking an enumeration for a member takes ten times as long (measured)."""
