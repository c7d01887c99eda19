"""Bounds the bytes of clients' bodies that a router holds at once, and decides who has to leave when there is no room. Pure.

Three kinds of bytes count: bodies that are still arriving, as they arrive; bodies of requests under way; answers that
their clients do not read. All together have one budget. Those that arrive have a part of it alone, so that strangers
who send and never finish cannot take what requests under way need. When there is no room, those go first that send
or read slowest; who makes good progress waits. The oldest may always go on, so that not all wait for each other.

Of the part for arriving each site, the address of a client, has a share: as much as any other when all want some. Where one has
waited for a second and has less, the site that has most gives it up, however fast that one sends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from mypy_extensions import mypyc_attr
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable

STALLED_S: Final = 1.0
"""Seconds without progress after which a body is ended when others need the room (guess: some round trips around the world)."""
SETTLED_S: Final = 2.0
"""Seconds after which the average counts, too (guess: slow start is over)."""
SLOW_BYTES_S: Final = 64 * 1024
"""The bytes a second below which a body is slow (guess: an upload over a bad telephone)."""
LOOK_EVERY_S: Final = 0.05
"""Seconds between two looks for slow bodies, of which one costs 1 ms where a thousand send (measured)."""
OVERDRAFT_BYTES: Final = 16 * 2**20
"""The bytes by which bodies may pass the part for arriving with what is here already when they begin, a read at most each
(guess: some 250 clients at once that have to wait for room)."""
SMALL_BYTES: Final = 2**20
RESERVE: Final = 10
"""One part in so many of all is for requests of `SMALL_BYTES` at most (guess): a few large ones leave it to everybody else."""
FREE: Final = 4
"""The divisor of the part for arriving: while no more than one part in so many of it is taken, bodies take all their room at
once (guess), and are read in as few turns of the loop as the system has them."""
LOOKED_AT: Final = 8
"""The sites that are looked at for one whose turn it is (guess: a few have more than their share)."""
_LARGE_BYTES: Final = 4 * 2**20
STEP_BYTES: Final = 64 * 1024
LARGE_STEP_BYTES: Final = 2 * 2**20
"""Memory of large bodies comes in huge pages: the first byte takes so much."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Charge(ABC):
    """The charge of one body, or of one unread answer, and the hold on whoever sends or reads it."""

    __slots__ = (
        "is_arriving",
        "is_busy",
        "is_waiting",
        "moved_s",
        "seen_bytes",
        "site",
        "size_bytes",
        "started_s",
    )

    def __init__(self, *, is_arriving: bool = True, site: str = "") -> None:
        """Begin with a body if `is_arriving`, else with an answer; a site that is not known has no share to give up."""
        self.is_arriving = is_arriving
        self.site = site
        self.size_bytes = 0
        self.seen_bytes = 0
        self.started_s = self.moved_s = 0.0
        self.is_waiting = False
        self.is_busy = False
        """True while it is the router's turn: who sends the body has done all that there is to do, and is not slow."""

    @abstractmethod
    def go_on(self) -> None:
        """There is room for a step now, if nobody takes it before."""

    @abstractmethod
    def give_up(self) -> None:
        """There is none, and others need what this has: end."""

    @abstractmethod
    def moved_bytes(self) -> int:
        """Return what has been sent or read so far."""


class BodyBudget:
    """The bytes that all clients of a router may have here."""

    def __init__(
        self,
        most_bytes: int,
        most_arriving_bytes: int,
        *,
        clock: Callable[[], float],
        is_trusted: Callable[[str], bool] | None = None,
    ) -> None:
        """`most_arriving_bytes` is at least the largest body, and `most_bytes` twice that, so that one always fits.

        A site that `is_trusted` stands for many clients: it may have all of it. None: no site is.
        """
        self.most_bytes = most_bytes
        self.most_arriving_bytes = most_arriving_bytes
        self._most_large_bytes = most_bytes - most_bytes // RESERVE
        self.used_bytes = 0
        """All of it: of requests under way, of bodies that arrive, of unread answers."""
        self.arriving_bytes = 0
        """The bytes of bodies that arrive, among all."""
        self.unread_bytes = 0
        self.ended = 0
        """The number of bodies that were ended because others needed their room."""
        self.refused = 0
        self._clock = clock
        self._charges: dict[Charge, None] = {}
        """The charges, by age."""
        self._waiting: dict[str, deque[Charge]] = {}
        """The charges that wait for room, by site; the sites in the order of their turns."""
        self._arriving_of: dict[str, int] = {}
        """The bytes of bodies that arrive, by site."""
        self._is_trusted = is_trusted
        self._is_giving = False
        self._looked_s = -LOOK_EVERY_S

    @override
    def __repr__(self) -> str:
        return f"BodyBudget({self.used_bytes} of {self.most_bytes}, {self.arriving_bytes} arriving)"

    def words_of_no_room(self) -> str:
        """Return what to tell a client for whose request there is no room."""
        held = f"{self.used_bytes} of {self.most_bytes}, {self.arriving_bytes} of {self.most_arriving_bytes} arriving"
        return f"the router holds as many bytes of requests as it may ({held}); send it again later, or give the router a larger --body-budget-mib"

    # requests under way

    def hold(self, size_bytes: int) -> bool:
        """Take room for a request that is here whole; False if there is none, and nothing is taken."""
        is_held = self.used_bytes + size_bytes <= self._most_large_bytes or self._holds(
            size_bytes, size_bytes, None
        )
        if is_held:
            self.used_bytes += size_bytes
        return is_held

    def let_go(self, size_bytes: int) -> None:
        """Give back what was held."""
        self.used_bytes -= size_bytes
        if self._waiting:
            self.tick()

    def may_begin(self, size_bytes: int) -> bool:
        """Return whether a body of that size can be expected to find room beside all requests under way."""
        is_free = self.used_bytes - self.arriving_bytes + size_bytes <= self._most(size_bytes)
        self.refused += not is_free
        return is_free

    # bodies that arrive, answers that are not read

    def begin(self, charge: Charge, size_bytes: int) -> bool:
        """Begin to charge for something of which so much is here; False: there is no room, and it is not charged."""
        charge.started_s = charge.moved_s = self._clock()
        if not self._fits(charge, size_bytes - OVERDRAFT_BYTES):
            self._make_room(size_bytes, None)
            if not self._take_back(charge, size_bytes, OVERDRAFT_BYTES):
                self.refused += 1
                return False
        self._charges[charge] = None
        self._add(charge, size_bytes)
        return True

    def grow(self, charge: Charge, size_bytes: int) -> bool:
        """Charge so much more; False: there is no room, and it is told to go on or to give up later."""
        if self._fits(charge, size_bytes):
            self._add(charge, size_bytes)
            return True
        self._make_room(size_bytes, charge)
        if self._fits(charge, size_bytes):
            self._add(charge, size_bytes)
            return True
        if not charge.is_waiting:
            charge.is_waiting = True
            charge.moved_s = self._clock()
            self._waiting.setdefault(charge.site, deque()).append(charge)
        return False

    def release(self, charge: Charge) -> None:
        """Forget a charge; may be told again."""
        if charge not in self._charges:
            return
        del self._charges[charge]
        self._add(charge, -charge.size_bytes)
        if charge.is_waiting:
            self._stop_waiting(charge)
        if self._waiting:
            self.tick()

    def arrived(self, charge: Charge, size_bytes: int) -> bool:
        """Hold `size_bytes` for a request whose body is here whole now, in place of its charge.

        False: there is no room for what it takes beyond its charge, and nothing is held or charged.
        """
        is_held = self._holds(size_bytes - charge.size_bytes, size_bytes, charge)
        if is_held:
            self.used_bytes += size_bytes
        self.release(charge)
        return is_held

    def step_bytes(self, size_bytes: int, left_bytes: int) -> int:
        """Return how many of the `left_bytes` of a body of that size take their room now."""
        if self.arriving_bytes + left_bytes <= self.most_arriving_bytes // FREE:
            return left_bytes
        return min(left_bytes, steps_of(size_bytes))

    # all of them

    def look(self) -> None:
        """See who has moved; due about once a second."""
        now_s = self._clock()
        for charge in self._charges:
            _see(charge, now_s)
        if self._waiting:
            self.tick()
        for site in list(self._waiting):
            waiting = self._waiting.get(site)
            if waiting and now_s - waiting[0].moved_s >= STALLED_S:
                self._take_back(waiting[0], STEP_BYTES, 0)

    def tick(self) -> None:
        """Let those go on for whom there is room, a site after the other; end the slow for them."""
        if self._is_giving:
            return
        self._is_giving = True
        try:
            while self._waiting:
                charge = self._next()
                if not self._fits(charge, STEP_BYTES):
                    self._make_room(STEP_BYTES, charge)
                if not charge.is_waiting:
                    continue
                if not self._fits(charge, STEP_BYTES):
                    return
                self._stop_waiting(charge)
                charge.moved_s = self._clock()
                charge.go_on()
                if charge.is_waiting:  # it wants more than there is
                    return
        finally:
            self._is_giving = False

    def end_slowest(self) -> bool:
        """End who sends or reads slowest, if somebody is slow; return whether."""
        now_s = self._clock()
        if now_s < self._looked_s + LOOK_EVERY_S:
            return False
        self._looked_s = now_s
        slow = self._slow(now_s, None)
        for charge in slow[:1]:
            self._end(charge)
        return bool(slow)

    # inside

    def _most(self, size_bytes: int) -> int:
        return self.most_bytes if size_bytes <= SMALL_BYTES else self._most_large_bytes

    def _holds(self, more_bytes: int, size_bytes: int, spared: Charge | None) -> bool:
        """Return whether a request of that size has room for so many bytes more."""
        if more_bytes <= 0 or self.used_bytes + more_bytes <= self._most(size_bytes):
            return True
        reserve_bytes = self.most_bytes - self._most(size_bytes)
        self._make_room(more_bytes + reserve_bytes, spared)
        is_free = self.used_bytes + more_bytes <= self._most(size_bytes)
        self.refused += not is_free
        return is_free

    def _next(self) -> Charge:
        """Return whose turn it is of those that wait: a site's that has less than its share, if one of the next few has."""
        share_bytes, sites = self._share_bytes(""), self._waiting
        for _ in range(min(LOOKED_AT, len(sites))):
            site = next(iter(sites))
            if self._arriving_of.get(site, 0) < share_bytes:
                break
            sites[site] = sites.pop(site)  # behind the others
        return sites[next(iter(sites))][0]

    def _stop_waiting(self, charge: Charge) -> None:
        """Take one out of those that wait; the next of its site has its turn behind all other sites."""
        charge.is_waiting = False
        waiting = self._waiting.pop(charge.site)
        waiting.remove(charge)
        if waiting:
            self._waiting[charge.site] = waiting

    def _share_bytes(self, site: str) -> int:
        """Return what each site may have of the part for arriving when all want some, this one too if it is named."""
        count = max(len(self._arriving_of), len(self._waiting), 1)
        if site and site not in self._arriving_of:
            count += 1
        return self.most_arriving_bytes // count

    def _take_back(self, charge: Charge, size_bytes: int, over_bytes: int) -> bool:
        """End bodies of the site that has most, until there is room for so much more of another's share; return whether there is.

        The part for arriving may be passed by `over_bytes`.
        """
        if self._fits(charge, size_bytes - over_bytes):
            return True
        share_bytes = self._share_bytes(charge.site)
        if (
            not charge.is_arriving
            or self._arriving_of.get(charge.site, 0) + size_bytes > share_bytes
        ):
            return False
        while not self._fits(charge, size_bytes - over_bytes):
            victim = self._youngest_of_most(share_bytes)
            if victim is None:
                return False
            self._end(victim)
        return True

    def _youngest_of_most(self, share_bytes: int) -> Charge | None:
        """Return the body that has come last of the site that has most, and more than a share; None: there is no such site."""
        most_bytes, greedy, is_trusted = share_bytes, "", self._is_trusted
        for site, bytes_of in self._arriving_of.items():
            if bytes_of > most_bytes and site and not (is_trusted and is_trusted(site)):
                most_bytes, greedy = bytes_of, site
        if not greedy:
            return None
        for charge in reversed(self._charges):
            if charge.is_arriving and charge.site == greedy and charge.size_bytes:
                return charge
        return None

    def _fits(self, charge: Charge, size_bytes: int) -> bool:
        if self.used_bytes + size_bytes > self.most_bytes:
            return False
        return (
            not charge.is_arriving
            or self.arriving_bytes + size_bytes <= self.most_arriving_bytes
            or next((each for each in self._charges if each.is_arriving), None) is charge
        )

    def _add(self, charge: Charge, size_bytes: int) -> None:
        charge.size_bytes += size_bytes
        self.used_bytes += size_bytes
        if charge.is_arriving:
            self.arriving_bytes += size_bytes
            left_bytes = self._arriving_of.get(charge.site, 0) + size_bytes
            if left_bytes:
                self._arriving_of[charge.site] = left_bytes
            else:
                self._arriving_of.pop(charge.site, None)
        else:
            self.unread_bytes += size_bytes

    def _make_room(self, size_bytes: int, spared: Charge | None) -> None:
        """End those that are slow, the slowest first, until there is room or nobody is."""
        now_s = self._clock()
        if now_s < self._looked_s + LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for victim in self._slow(now_s, spared):
            if (
                self.used_bytes + size_bytes <= self.most_bytes
                and self.arriving_bytes + size_bytes <= self.most_arriving_bytes
            ):
                break
            self._end(victim)

    def _end(self, victim: Charge) -> None:
        self.ended += 1
        victim.give_up()
        self.release(victim)  # if it did not

    def _slow(self, now_s: float, spared: Charge | None) -> list[Charge]:
        """Return who is slow, the slowest first."""
        found: list[tuple[float, Charge]] = []
        for charge in self._charges:
            _see(charge, now_s)
            if charge.is_waiting or charge.is_busy or charge is spared:
                continue
            age_s, still_s = now_s - charge.started_s, now_s - charge.moved_s
            if still_s >= STALLED_S:
                found.append((-still_s, charge))
            elif age_s >= SETTLED_S and charge.seen_bytes < SLOW_BYTES_S * age_s:
                found.append((charge.seen_bytes / age_s, charge))
        return [charge for _, charge in sorted(found, key=itemgetter(0))]


def _see(charge: Charge, now_s: float) -> None:
    moved = charge.moved_bytes()
    if moved != charge.seen_bytes:
        charge.seen_bytes = moved
        charge.moved_s = now_s


def steps_of(size_bytes: int) -> int:
    """Return how many bytes of a body of that size are taken room for at a time."""
    return LARGE_STEP_BYTES if size_bytes >= _LARGE_BYTES else STEP_BYTES
