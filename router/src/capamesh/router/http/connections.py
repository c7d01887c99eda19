"""Counts the connections of clients, by where they are from, and decides who has to leave when there are too many. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

SITE_PREFIX: Final = 64
"""An IPv6 client has that many bits of an address to itself: what its provider gives a single house (RFC 6177)."""

LINE_UP_S: Final = 0.25
"""Seconds for which nobody is looked for again where nobody was idle (measured: to look costs 1 ms for 4,096)."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Connection(Protocol):
    """One of them."""

    __slots__ = ()

    site: str
    used_s: float

    @property
    def is_dispensable(self) -> bool:
        """Return whether no request of its client's would be lost with it."""
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


class _Line:
    """The connections that go next, of one site or of all, so that they are not looked for each time."""

    __slots__ = ("next", "none_until_s")

    def __init__(self) -> None:
        self.next: list[Connection] = []
        """Last first."""
        self.none_until_s = 0.0
        """The time until which it is not looked again: nobody was idle."""

    def form(self, among: Collection[Connection]) -> None:
        """Line up the half that has been idle for longest: who has just come has a moment to say what it wants."""
        idle = [connection for connection in among if connection.is_dispensable]
        idle.sort(key=lambda connection: connection.used_s)
        self.next = idle[: (len(idle) + 1) // 2]
        self.next.reverse()


class Connections:
    """The open connections. One that is too many is taken for another that is idle, or not at all."""

    def __init__(self, most: int, most_per_site: int, trusted: Collection[Network] = ()) -> None:
        """`trusted` networks, of proxies, have all of it."""
        self.most = most
        self.most_per_site = most_per_site
        self._trusted = tuple(trusted)
        self._all: dict[Connection, None] = {}
        self._sites: dict[str, dict[Connection, None]] = {}
        self._line = _Line()
        self._lines: dict[str, _Line] = {}
        """The lines of sites whose share is full or was a moment ago."""
        self.turned_away = 0
        self.hung_up = 0
        """The number of connections that were closed for others."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._all))

    def opened(self, connection: Connection, now_s: float) -> bool:
        """Take a connection, for another if need be; False: it has to go."""
        peers = self._sites.get(connection.site, {})
        if len(peers) >= self.most_per_site and not self.is_trusted(connection.site):
            line = self._lines.setdefault(connection.site, _Line())
            is_let_in = self._spare(line, peers, now_s)
        else:
            is_let_in = len(self._all) < self.most or self._spare(self._line, self._all, now_s)
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
        if len(peers) < self.most_per_site - self.most_per_site // 4:
            self._lines.pop(connection.site, None)  # it is no longer near its share

    def _spare(self, line: _Line, among: dict[Connection, None], now_s: float) -> bool:
        """Close the one among them that has been idle for longest; return whether there was one."""
        if not line.next and now_s < line.none_until_s:
            return False
        for _ in range(2):
            while line.next:
                longest = line.next.pop()
                if longest in among and longest.is_dispensable:
                    self.hung_up += 1
                    self.closed(longest)
                    longest.hang_up()
                    return True
            line.form(among)
        line.none_until_s = now_s + LINE_UP_S
        return False

    def is_trusted(self, site: str) -> bool:
        """Return whether a site stands for many clients: this machine, or a proxy that was named."""
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
