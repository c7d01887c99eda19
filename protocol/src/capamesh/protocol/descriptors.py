"""File descriptors: the limit of this process, raised at its start, and how they are shared out. IO: asks and tells the kernel.

A process that strangers can make run out of descriptors can restart none of its children and dial nobody. So each
listener has a share that it does not pass, and `OWN_DESCRIPTORS` belong to nobody: pipes, files, sockets to children.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

OWN_DESCRIPTORS: Final = 64
"""A guess: an idle router with three nodes was seen with 22, and its sidecar's restart takes a handful more."""

MAX_LINK_DESCRIPTORS: Final = 8192
"""The most descriptors for links (guess: a router with more links than this has no core left to serve them)."""

LOW_LIMIT: Final = 1024
"""The limit that systems gave a process for decades; the owner is told of less."""

MAX_LIMIT: Final = 2**20
"""Linux's own `fs.nr_open`; some containers are given a thousand times that, which no table should be made for."""

_FALLBACK_LIMITS: Final = (65_536, 10_240, 4_096)
"""The limits that are tried where the kernel refuses the hard limit as a soft one: macOS says "unlimited" and takes 10,240
(OPEN_MAX)."""


@dataclass(frozen=True, slots=True)
class DescriptorShares:
    """The shares of a process's descriptors, by who may hold them."""

    own: int
    """The process itself: its files, and its channels to its children."""
    links: int
    """Links to other members, those dialled and those accepted, and strangers that may become one."""
    clients: int
    """The descriptors that are left: connections of HTTP clients."""


def shares_of(limit: int) -> DescriptorShares:
    """Return how `limit` descriptors are shared out; each share is at least 1."""
    own = max(1, min(OWN_DESCRIPTORS, limit // 4))
    links = max(1, min(MAX_LINK_DESCRIPTORS, limit // 4))
    return DescriptorShares(own, links, max(1, limit - own - links))


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_LIMIT if soft == resource.RLIM_INFINITY else min(soft, MAX_LIMIT)


def raise_descriptor_limit(log: FilteringBoundLogger | None = None) -> int:
    """Raise this process's limit to what it is allowed to have; return the limit that holds now.

    It never lowers one. With a `log`, a limit that is low even so is told.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_LIMIT if hard == resource.RLIM_INFINITY else min(hard, MAX_LIMIT)
    for wanted in (most, *(one for one in _FALLBACK_LIMITS if one < most)):
        if soft == resource.RLIM_INFINITY or wanted <= soft:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        break
    limit = descriptor_limit()
    if log is not None and limit < LOW_LIMIT:
        shares = shares_of(limit)
        log.warning(
            "descriptors_low",
            limit=limit,
            links=shares.links,
            clients=shares.clients,
            what_to_do="raise it: `ulimit -n`, LimitNOFILE= in systemd, or ulimits in compose; "
            f"{LOW_LIMIT} is little, 65536 is usual",
        )
    return limit
