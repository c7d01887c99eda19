"""Which connections of clients there are, how many from where, and who has to leave when there are too many. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

SITE_PREFIX: Final = 64
"""An IPv6 client has that many bits of an address to itself: what its provider gives a single house (RFC 6177)."""

LINE_UP_S: Final = 0.25
"""How long nobody is looked for again where nobody was idle (measured: to look costs 1 ms for 4,096)."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Connection(Protocol):
    """One of them."""

    site: str
    used_s: float

    @property
    def is_dispensable(self) -> bool:
        """Whether no request of its client's would be lost with it."""
        ...

    def hang_up(self) -> None:
        """Close it."""
        ...


def site_of(host: str) -> str:
    """Return whose address it is, as far as that can be told: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.ip_network((address, SITE_PREFIX), strict=False))
    return str(address)


class Connections:
    """The open connections. One that is too many is taken for another that is idle, or not at all."""

    def __init__(self, most: int, most_per_site: int, trusted: Collection[Network] = ()) -> None:
        """`trusted` networks, of proxies, have all of it."""
        self.most = most
        self.most_per_site = most_per_site
        self._trusted = tuple(trusted)
        self._all: dict[Connection, None] = {}
        self._sites: dict[str, dict[Connection, None]] = {}
        self._line: list[Connection] = []
        """Who goes next, last first, of those in `_lined_up`."""
        self._lined_up: dict[Connection, None] | None = None
        self._none_until_s = 0.0
        self.turned_away = 0
        self.hung_up = 0
        """How many were closed for others."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._all))

    def opened(self, connection: Connection, now_s: float) -> bool:
        """Take a connection, for another if need be; False: it has to go."""
        peers = self._sites.get(connection.site, {})
        if len(peers) >= self.most_per_site and not self._is_trusted(connection.site):
            is_let_in = self._spare(peers, now_s)
        else:
            is_let_in = len(self._all) < self.most or self._spare(self._all, now_s)
        if not is_let_in:
            self.turned_away += 1
            return False
        self._all[connection] = None
        self._sites.setdefault(connection.site, {})[connection] = None
        return True

    def closed(self, connection: Connection) -> None:
        """Forget it; may be told again, and of one that was not taken."""
        if connection not in self._all:
            return
        del self._all[connection]
        peers = self._sites[connection.site]
        del peers[connection]
        if not peers:
            del self._sites[connection.site]

    def _spare(self, among: dict[Connection, None], now_s: float) -> bool:
        """Close the one among them that has been idle for longest; return whether there was one."""
        if self._lined_up is not among:
            self._line = []
        elif not self._line and now_s < self._none_until_s:
            return False
        for _ in range(2):
            while self._line:
                longest = self._line.pop()
                if longest in among and longest.is_dispensable:
                    self.hung_up += 1
                    self.closed(longest)
                    longest.hang_up()
                    return True
            self._line_up(among)
        self._none_until_s = now_s + LINE_UP_S
        return False

    def _line_up(self, among: dict[Connection, None]) -> None:
        """Line up the half that has been idle for longest: who has just come has a moment to say what it wants."""
        self._lined_up = among
        idle = [connection for connection in among if connection.is_dispensable]
        idle.sort(key=lambda connection: connection.used_s)
        self._line = idle[: (len(idle) + 1) // 2]
        self._line.reverse()

    def _is_trusted(self, site: str) -> bool:
        try:
            network = ipaddress.ip_network(site)
        except ValueError:
            return True  # no address: a socket of this machine
        if network.is_loopback:
            return True
        return any(
            network.version == trusted.version and network.subnet_of(trusted)  # type: ignore[arg-type]
            for trusted in self._trusted
        )
