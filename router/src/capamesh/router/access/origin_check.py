"""The check of where a request comes from: by which name of the host, and from whose web page. Pure.

Any page that a browser shows can have it send requests to this machine and to those beside it. A request is refused
that a page of another origin sends (cross-site request forgery), and one that names a host which is not this router:
a page whose own name was made to lead here (DNS rebinding) counts as the router's own for the browser. Other clients
send neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import Final

from typing_extensions import override

from capamesh.protocol.errors import ConfigError, Forbidden

ANY_HOST: Final = "*"
"""Has every Host be taken."""
LOCALHOST: Final = "localhost"
"""A name that browsers look up nowhere, and neither names below it (RFC 6761, section 6.3)."""
_OWN_SITES: Final = frozenset({"same-origin", "none"})
"""The values of `Sec-Fetch-Site` of the router's own page, and of what a person has typed (W3C Fetch Metadata)."""
_READING: Final = frozenset({"GET", "HEAD"})
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.ASCII)
_NAME: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.ASCII)
_HOST: Final = re.compile(
    r"(?:\[([0-9a-f:.]+(?:%[\w.-]+)?)\]|([a-z0-9_.-]+?)\.?)(?::[0-9]*)?", re.ASCII
)
"""The value of a Host in small letters: an address of IPv6, or a name or an address of IPv4. A browser writes no other."""
_SHOWN: Final = 80
"""The characters that are shown of what a client sent."""


class OriginCheck:
    """The check of one front."""

    def __init__(
        self,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        *,
        certificate_names: Callable[[], Collection[str]] = tuple,
        asks_for_keys: Callable[[], bool] = bool,
        has_tls: bool = False,
    ) -> None:
        """Take the names of this router, `*.NAME` for all one level below; pages of `origins` may send anything.

        The names of its certificate count, too. Where keys are asked for every Host is taken: a browser has none for the
        name of a stranger. `has_tls`: its own page came by TLS, and not from whoever answers for its name without.
        """
        self._hosts = frozenset(name.lower() for name in hosts)
        self.origins: Final = frozenset(origins)
        """The origins of pages that are let in beside the router's own."""
        self._certificate_names = certificate_names
        self._asks_for_keys = asks_for_keys
        self._schemes = ("https",) if has_tls else ("http", "https")  # a proxy may speak TLS
        self._last_own = ""
        """The Host that was the router's own last: clients ask by the same again and again."""

    @override
    def __repr__(self) -> str:
        return f"OriginCheck({sorted(self._hosts)}, {sorted(self.origins)})"

    def is_own(self, host: str) -> bool:
        """Return whether `host`, as a request names it, may be this router: empty, an address, or one of its names."""
        if not host or host == self._last_own:
            return True
        name = _name_of(host)
        above = f"*.{name.partition('.')[2]}"
        if (
            name == LOCALHOST
            or name.endswith(f".{LOCALHOST}")
            or not self._hosts.isdisjoint((name, above, ANY_HOST))
            or _is_address(name)
        ):
            self._last_own = host
            return True
        names = self._certificate_names()
        return name in names or above in names or self._asks_for_keys()

    def check(
        self,
        method: str,
        host: str,
        *,
        origin: str = "",
        fetch_site: str = "",
        is_visit: bool = False,
    ) -> None:
        """Raise `Forbidden` for what a stranger's page may have sent; each is the header of its name, or empty.

        `is_visit`: a person goes to the page. Whoever sent them there sees nothing of it.
        """
        if not self.is_own(host):
            name = _name_of(host)[:_SHOWN]
            raise Forbidden(
                f"Host is {host[:_SHOWN]!r}, which is no name of this router's: ask by its IP address or by localhost, or start"
                f" it with --allow-host {name}"
            )
        if (origin and origin in self.origins) or (is_visit and method in _READING):
            return
        if fetch_site:
            is_strange = fetch_site not in _OWN_SITES
        else:  # a browser of before it, or an address that is not secure for it
            scheme, _, place = origin.lower().partition("://")
            is_strange = bool(origin) and (place != host.lower() or scheme not in self._schemes)
        if is_strange:
            whose = f"of {origin[:_SHOWN]}" if origin else "of another site"
            wanted = origin[:_SHOWN] if origin and origin != "null" else "ORIGIN"
            raise Forbidden(
                f"a page {whose} may not ask this router; start it with --allow-origin {wanted} to let it"
            )


def checked_host(text: str) -> str:
    """Return a value of `--allow-host`. Raises `ConfigError`."""
    name = text.lower().rstrip(".")
    if name == ANY_HOST or _NAME.fullmatch(name) or _is_address(name):
        return name
    raise ConfigError(
        f"--allow-host {text[:_SHOWN]!r} is no name of a host: give it without scheme and port, such as router.example, or"
        f" *.example for all below, or {ANY_HOST} for every name"
    )


def checked_origin(text: str) -> str:
    """Return a value of `--allow-origin`. Raises `ConfigError`."""
    origin = text.lower()  # as browsers write it
    if _ORIGIN.fullmatch(origin) is None:
        raise ConfigError(
            f"--allow-origin {text[:_SHOWN]!r} is no origin: give scheme, host and port as browsers send them, such as"
            " https://app.example, without a path"
        )
    return origin


def _name_of(host: str) -> str:
    """Return the host of a Host's value, in small letters: without the port, and the brackets of IPv6; "": it is none."""
    found = _HOST.fullmatch(host.lower())
    return "" if found is None else found[1] or found[2]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
