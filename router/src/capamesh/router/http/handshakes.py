"""Bounds the TLS handshakes of clients that are under way, in all and for an address, and how often one begins. Pure.

Whoever connects has proved nothing yet, and a handshake costs the router some 0.6 ms of CPU time (measured). One address may
have a share of those under way and begins them at a rate; when all places are taken, one that dawdles has to go, of the
address that has most; if none dawdles yet, nobody is accepted for a moment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from typing_extensions import override

MOST: Final = 256
"""The most under way (guess: 10 KB each; at a round trip of 0.3 s that is 400 clients a second)."""
MOST_OF_SITE: Final = 64
"""The most of one address (guess: a quarter)."""
DAWDLES_AFTER_S: Final = 1.0
"""Seconds that each has, whoever waits (guess: three round trips around the world)."""
A_SECOND: Final = 100.0
"""Handshakes a second of one address (measured: 6 % of a core)."""
AT_ONCE: Final = 300.0
"""Handshakes of one address at once, behind a pause (guess: a proxy that starts again, or a small office)."""
MOST_SITES: Final = 4096
"""Addresses whose rate is remembered (guess: 1 MB)."""


class Handshake(Protocol):
    """One of them; compared by identity."""

    __slots__ = ()

    site: str
    begun_s: float

    def give_up(self) -> None:
        """End it: its place is needed."""
        ...


class Handshakes:
    """The handshakes under way at one front."""

    def __init__(
        self,
        is_trusted: Callable[[str], bool],
        *,
        most: int = MOST,
        most_of_site: int = MOST_OF_SITE,
    ) -> None:
        """A trusted site, which stands for many clients, has neither a share nor a rate."""
        self.most = most
        self._most_of_site = min(most, most_of_site)
        self._is_trusted = is_trusted
        self._all: dict[Handshake, None] = {}
        """Oldest first, as those of each site."""
        self._sites: dict[str, dict[Handshake, None]] = {}
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """The handshakes that a site may begin, and when that was so."""
        self.turned_away = 0
        """The handshakes refused, or given up for others, since the start."""

    @override
    def __repr__(self) -> str:
        return f"Handshakes({len(self._all)} of {self.most})"

    def __len__(self) -> int:
        return len(self._all)

    def has_room(self, now_s: float) -> bool:
        """Return whether another may begin now; one that dawdles is given up for it."""
        if len(self._all) < self.most:
            return True
        greediest = max(self._sites.values(), key=len)
        return self._spare(greediest, now_s)

    def begin(self, handshake: Handshake, now_s: float) -> bool:
        """Count one that begins; False: its address has too many, or begins too many. There has to be room."""
        site = handshake.site
        if not self._is_trusted(site):
            own = self._sites.get(site, {})
            is_full = len(own) >= self._most_of_site and not self._spare(own, now_s)
            if is_full or not self._may_begin(site, now_s):
                self.turned_away += 1
                return False
        self._all[handshake] = None
        self._sites.setdefault(site, {})[handshake] = None
        return True

    def ended(self, handshake: Handshake) -> None:
        """Forget one; may be told again."""
        if handshake not in self._all:
            return
        del self._all[handshake]
        own = self._sites[handshake.site]
        del own[handshake]
        if not own:
            del self._sites[handshake.site]

    def give_up_all(self) -> None:
        """End all that are under way."""
        for handshake in [*self._all]:
            self.ended(handshake)
            handshake.give_up()

    def _spare(self, among: dict[Handshake, None], now_s: float) -> bool:
        """Give up the oldest of some if it dawdles; return whether that was so."""
        oldest = next(iter(among))
        if now_s - oldest.begun_s < DAWDLES_AFTER_S:
            return False
        self.turned_away += 1
        self.ended(oldest)
        oldest.give_up()
        return True

    def _may_begin(self, site: str, now_s: float) -> bool:
        left, then_s = self._rates.pop(site, (AT_ONCE, now_s))
        left = min(AT_ONCE, left + (now_s - then_s) * A_SECOND)
        is_allowed = left >= 1.0
        self._rates[site] = (left - 1.0 if is_allowed else left, now_s)
        if len(self._rates) > MOST_SITES:
            self._rates.popitem(last=False)
        return is_allowed
