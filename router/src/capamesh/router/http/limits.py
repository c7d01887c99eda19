"""The shares that a router's clients may have of it, from its settings or from what this machine has. IO: asks the kernel."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from capamesh.protocol.descriptors import descriptor_limit, shares_of
from capamesh.protocol.errors import ConfigError
from capamesh.router.http.connections import Network

MIB: Final = 2**20
MEMORY_SHARE: Final = 8
"""Bodies have one part in so many of the memory: 128 MiB of 1 GiB (guess: a router itself has 90 MB)."""
MOST_ARRIVING_BYTES: Final = 64 * MIB
"""The most bytes of bodies that are still arriving, and of no more than half of all (guess): strangers have them for nothing."""
USUAL_CONNECTIONS: Final = 4096
"""The usual number of connections (guess: some 20 KB each, with what the kernel has for it)."""
HANDSHAKES_PER: Final = 4
"""There may be one TLS handshake under way for so many connections (guess)."""


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """The limits of what clients may have. The defaults are for tests; `limits_of` makes those of a router."""

    body_bytes: int = 512 * MIB
    """All bodies together."""
    arriving_bytes: int = 256 * MIB
    """The bytes among these of bodies that are still arriving."""
    connections: int = USUAL_CONNECTIONS
    connections_per_site: int = USUAL_CONNECTIONS
    trusted: tuple[Network, ...] = ()
    """Networks of proxies, which stand for many clients."""
    first_head_s: float = 15.0
    """Seconds that a connection may be open before the head of its first request is here (guess; nginx has 60)."""
    idle_s: float = 75.0
    """Seconds before another head has begun: longer than proxies keep their connections (nginx 60, AWS's 60)."""


def limits_of(
    largest_body_bytes: int,
    *,
    body_bytes: int = 0,
    connections: int = 0,
    connections_per_site: int = 0,
    trusted: tuple[Network, ...] = (),
    has_tls: bool = False,
) -> FrontLimits:
    """Return the limits by settings, of which 0 is what suits this machine; `has_tls`: handshakes need descriptors, too."""
    body_bytes = max(body_bytes or memory_bytes() // MEMORY_SHARE, 2 * largest_body_bytes)
    share = shares_of(descriptor_limit()).clients
    if has_tls:
        share = max(1, share * HANDSHAKES_PER // (HANDSHAKES_PER + 1))
    connections = min(connections or USUAL_CONNECTIONS, share)
    return FrontLimits(
        body_bytes,
        max(largest_body_bytes, min(body_bytes // 2, MOST_ARRIVING_BYTES)),
        connections,
        min(connections_per_site or max(1, connections // 2), connections),
        trusted,
    )


def answers_bytes_of(largest_bytes: int, answers_bytes: int = 0) -> int:
    """Return what answers that are coming from nodes may have together, by a setting of which 0 is what suits this machine.

    It is twice the largest at least: one node may have half of it.
    """
    return max(answers_bytes or memory_bytes() // MEMORY_SHARE, 2 * largest_bytes)


def networks_of(proxies: tuple[str, ...]) -> tuple[Network, ...]:
    """Return the networks that settings name, an address as one of its own. Raises ConfigError."""
    networks: list[Network] = []
    for proxy in proxies:
        try:
            networks.append(ipaddress.ip_network(proxy))
        except ValueError as exc:
            raise ConfigError(
                f"--trusted-proxy {proxy!r} is no address and no network: {exc}; 10.0.0.7 and 10.0.0.0/24 are"
            ) from exc
    return tuple(networks)


def memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may have: that of its control groups (v2, or v1), or the machine's."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _memory_limits(root):
        try:
            text = file.read_text("ascii").strip()
        except (OSError, ValueError):
            continue
        if text.isdecimal():
            most = min(most, int(text))
    return most


def _memory_limits(root: Path) -> Iterator[Path]:
    """Yield the files that may have a limit of this process's group, or of one above it, which in a container are at the mount's top."""
    mounts = {"": (root / "sys/fs/cgroup", "memory.max")}
    mounts["memory"] = (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes")
    groups = dict.fromkeys(mounts, "")
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            groups |= {each: path for each in controllers.split(",") if each in mounts}
    for kind, (mount, name) in mounts.items():
        parts = [part for part in groups[kind].split("/") if part not in {"", ".", ".."}]
        for count in range(len(parts) + 1):
            yield mount.joinpath(*parts[:count], name)
