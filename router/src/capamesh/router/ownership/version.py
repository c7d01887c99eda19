"""One version of a model: who brings which file for it, and which of the files is the one that is served. Pure.

    the first that applies                                      the digest that is served
    ----------------------------------------------------------  -------------------------------------------------------
    the operator's rules name one                               that one
    accepted publishers signed some that are brought            the pinned one if it is signed, else as seen first
    the pinned one was signed by an accepted publisher          that one, brought now or not
    the operator's rules name publishers, who signed none       none
    more invites host one than any other                        that one
    the holders' invites do, and no others outvote them         that one
    none was served before                                      none
    otherwise                                                   the same as before, brought now or not

A holder is a node that hosts, or hosted, the pinned digest. An invite has one vote: what most of its holders that are there
host, else what most of its nodes do. One whose holders have all left votes for the pinned digest: for `GRACE_S` if it has
other nodes, else for `ABSTAIN_S` while a holder of another invite is there, and for `KEEP_S` while none is. So a newcomer
takes nothing from a model by itself, however many nodes it brings; and an operator who replaces a file on all nodes, one
after the other, has rolled it out when more than half of the holders have it.

That a digest is pinned decides only where as many invites host another. Until the router has heard the fleet, within
`SETTLE_S` of its start, it does not: who is heard first then is chance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.model_digest import short_digest
from capamesh.router.ownership.pins import MAX_KEPT_HOLDERS, Pin, Why
from capamesh.router.ownership.quorum import first_among, most_backed, votes

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId

SETTLE_S = 10.0
"""The wait for all nodes before it counts who was first (guess: a router that starts hears all nodes within a few seconds,
since they advertise when a router appears)."""
GRACE_S = 30.0
"""A version whose holders are all away is kept for them for this long before others of their invites may stand in for
them (guess: ten times what a node takes to restart)."""
KEEP_S = 86_400.0
"""The same before anybody may (guess: a provider that is away for a day has left)."""
ABSTAIN_S = 600.0
"""The vote of an invite whose holders have left counts for this long (guess: a node that was made to fail must not be
outvoted by those who made it)."""
MAX_ABSENT = 64
"""Holders that are not there and yet remembered (guess); more where each is the newest of its invite."""
MAX_KNOWN_DIGESTS = 16
"""Digests whose order of coming is remembered (guess: more are a flood)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The file that one node claims to be the version."""

    peer: PeerId
    invite: str
    """The serial number of the invite that admitted it."""
    digest: str
    publisher: str = ""
    """The publisher whose signature of it was verified; "" without one."""


class OwnedVersion:
    """One version of one model. Every `now_s` is in seconds of the caller's monotonic clock."""

    __slots__ = (
        "_known",
        "brought_by",
        "claims",
        "digest",
        "holders",
        "is_signed_only",
        "is_trusted",
        "left_s",
        "model",
        "publisher",
        "seen_s",
        "settled_s",
        "version",
        "why",
    )

    def __init__(
        self,
        model: ModelName,
        version: ModelVersion,
        now_s: float,
        *,
        brought_by: str = "",
        settled_s: float = -math.inf,
    ) -> None:
        self.model = model
        self.version = version
        self.brought_by = brought_by
        """The invite of who brought it first."""
        self.digest = ""
        """The one that is served; "": none is."""
        self.why = Why.FIRST
        self.publisher = ""
        self.is_trusted = False
        """True if requests that name no version may go to it as to any other."""
        self.claims: dict[PeerId, Claim] = {}
        self.holders: dict[PeerId, str] = {}
        """The nodes that host or have hosted `digest`, each with its invite, the latest last."""
        self.left_s: dict[str, float] = {}
        """The time at which the last holder of an invite left, for invites without a holder now."""
        self.seen_s = now_s
        """The last time at which a holder was there."""
        self.settled_s = settled_s
        """The time from which on it counts which digest was first."""
        self.is_signed_only = False
        """True if the rules name publishers, so that nothing else is served than what one of them has signed."""
        self._known: dict[str, None] = {}

    @override
    def __repr__(self) -> str:
        trust = "trusted" if self.is_trusted else "on trial"
        return (
            f"OwnedVersion({self.model!r} {self.version} is {short_digest(self.digest)!r}, {self.why},"
            f" {trust}, {len(self.claims)} nodes)"
        )

    @classmethod
    def of(cls, pin: Pin, now_s: float) -> OwnedVersion:
        """Return the version as it was remembered: its holders may have been there until this very moment."""
        made = cls(pin.model, pin.version, now_s)
        made.digest, made.why, made.publisher = pin.digest, pin.why, pin.publisher
        made.is_trusted = pin.is_trusted
        made.holders = dict(pin.holders)
        made.left_s = {invite: now_s for _, invite in pin.holders}
        made._known = {pin.digest: None}
        return made

    def pin(self) -> Pin:
        """Return what is to be remembered of it."""
        return Pin(
            self.model,
            self.version,
            self.digest,
            self.why,
            self.publisher,
            self.is_trusted,
            tuple(self._by_worth()[-MAX_KEPT_HOLDERS:]),
        )

    # who is there

    def brings(self, claim: Claim, now_s: float) -> bool:
        """A node hosts a file for the version; return whether anything has to be decided because of it."""
        before = self.claims.get(claim.peer)
        self.claims[claim.peer] = claim
        if claim.digest not in self._known and len(self._known) < MAX_KNOWN_DIGESTS:
            self._known[claim.digest] = None
        if claim.digest == self.digest:
            self._held(claim, now_s)
            is_signed = bool(claim.publisher) and claim.publisher != self.publisher
            return is_signed or (before is not None and before.digest != claim.digest)
        if before is not None and before.digest == self.digest:
            self._missed(now_s)
        return True

    def leaves(self, peer: PeerId, now_s: float) -> bool:
        """A node hosts nothing for the version any more; return whether anything has to be decided."""
        claim = self.claims.pop(peer, None)
        if claim is None:
            return False
        invite = self.holders.get(peer)
        if invite is not None and not any(
            each.invite == invite and each.peer in self.holders for each in self.claims.values()
        ):
            self.left_s[invite] = now_s
        if self.is_holder(claim):
            self._missed(now_s)
        self._forget_absent()
        return bool(self.claims)

    def is_holder(self, claim: Claim) -> bool:
        """Return whether who brings this hosts or has hosted the digest that is served."""
        return claim.digest == self.digest or claim.peer in self.holders

    def is_hosted(self) -> bool:
        """Return whether a node hosts the digest that is served."""
        return any(claim.digest == self.digest for claim in self.claims.values())

    def is_contested(self) -> bool:
        """Return whether a node hosts another digest than the one that is served."""
        return any(claim.digest != self.digest for claim in self.claims.values())

    def invites(self, digest: str) -> int:
        """Return how many invites have nodes that host `digest`."""
        return len({claim.invite for claim in self.claims.values() if claim.digest == digest})

    def abstaining(self, present: Collection[str], now_s: float) -> list[str]:
        """Return the holders' invites of which nobody is there, though somebody was until lately."""
        return [
            invite
            for invite, left_s in self.left_s.items()
            if invite not in present and now_s - left_s < ABSTAIN_S
        ]

    def due_s(self, now_s: float) -> list[float]:
        """Return when time alone may change what is served, all after `now_s`."""
        times_s = [self.settled_s]
        if self.claims and self.digest:
            times_s += [self.seen_s + GRACE_S, self.seen_s + KEEP_S]
            for left_s in self.left_s.values():
                times_s += [left_s + GRACE_S, left_s + ABSTAIN_S, left_s + KEEP_S]
        return [due_s for due_s in times_s if due_s > now_s]

    # what is served

    def decide(
        self, ruled: str, accepted: Collection[str], now_s: float, *, is_signed_only: bool
    ) -> bool:
        """Decide which digest is served; return whether that has changed.

        `ruled` is the operator's word, "" without one; `accepted` are the publishers whose signatures count,
        and with `is_signed_only` nothing else does.
        """
        before, self.is_signed_only = self.digest, is_signed_only
        if ruled:
            self._serve(ruled, Why.RULES, "", now_s)
            return self.digest != before
        signed = {
            claim.digest: claim.publisher
            for claim in self.claims.values()
            if claim.publisher in accepted
        }
        if signed:
            allowed = [claim for claim in self.claims.values() if claim.digest in signed]
            chosen = self.digest
            if chosen not in signed and not self._is_signed_by(accepted):
                chosen = first_among(self._choices(allowed)) or ""
            else:
                chosen = self._settled(allowed, now_s)
            publisher = signed.get(chosen, self.publisher)
            self._serve(chosen, Why.SIGNED, publisher, now_s)
        elif self._is_signed_by(accepted):
            pass
        elif is_signed_only:
            self._serve("", Why.FIRST, "", now_s)
        else:
            self._serve(self._settled(self.claims.values(), now_s), Why.FIRST, "", now_s)
        return self.digest != before

    def _is_signed_by(self, accepted: Collection[str]) -> bool:
        """Return whether what is served was signed by one of them, whoever is there now."""
        return bool(self.digest) and self.why is Why.SIGNED and self.publisher in accepted

    def _settled(self, allowed: Collection[Claim], now_s: float) -> str:
        """Return which digest of those `allowed` is served, or the one that is; "": none."""
        if now_s < self.settled_s:
            by_invite = votes((claim.invite, claim.digest) for claim in allowed)
            return (most_backed(by_invite) or "") if by_invite else self.digest
        of_holders = [claim for claim in allowed if self.is_holder(claim)]
        by_invite = votes((claim.invite, claim.digest) for claim in allowed)
        by_invite |= votes((claim.invite, claim.digest) for claim in of_holders)
        present = {claim.invite for claim in of_holders}
        patience_s = ABSTAIN_S if present else KEEP_S
        for invite, left_s in self.left_s.items():
            if invite not in present:
                keeps_s = GRACE_S if invite in by_invite else patience_s
                if now_s - left_s < keeps_s:
                    by_invite[invite] = self.digest
        heirs = {
            invite: by_invite[invite] for invite in {*self.holders.values()} & by_invite.keys()
        }
        kept = most_backed(heirs, self.digest) or self.digest
        return most_backed(by_invite, kept) or self.digest

    def _choices(self, claims: Iterable[Claim]) -> list[tuple[str, str]]:
        """Return who brings what, what came first first."""
        order = {digest: number for number, digest in enumerate(self._known)}
        listed = sorted(claims, key=lambda claim: order.get(claim.digest, MAX_KNOWN_DIGESTS))
        return [(claim.invite, claim.digest) for claim in listed]

    def _serve(self, digest: str, why: Why, publisher: str, now_s: float) -> None:
        self.why, self.publisher = why, publisher
        if digest == self.digest:
            return
        self.digest = digest
        if not digest:
            self.holders.clear()
            self.left_s.clear()
        for claim in self.claims.values():
            if claim.digest == digest:
                self._held(claim, now_s)

    def _held(self, claim: Claim, now_s: float) -> None:
        self.holders.pop(claim.peer, None)
        self.holders[claim.peer] = claim.invite
        self.left_s.pop(claim.invite, None)
        self.seen_s = now_s

    def _missed(self, now_s: float) -> None:
        """One that hosted the digest does so no more."""
        self.seen_s = now_s

    def _by_worth(self) -> list[tuple[PeerId, str]]:
        """Return the holders, the newest of each invite last: it has the invite's vote, whatever others come and go."""
        newest = {invite: peer for peer, invite in self.holders.items()}
        listed = list(self.holders.items())
        listed.sort(key=lambda holder: newest[holder[1]] == holder[0])
        return listed

    def _forget_absent(self) -> None:
        absent = [holder for holder in self._by_worth() if holder[0] not in self.claims]
        kept = max(MAX_ABSENT, len({invite for _, invite in absent}))
        for peer, _ in absent[:-kept]:
            del self.holders[peer]
        if len(self.left_s) > MAX_ABSENT:
            invites = set(self.holders.values())
            self.left_s = {
                invite: left_s for invite, left_s in self.left_s.items() if invite in invites
            }

    def expel(self, peers: Collection[str], invites: Collection[str]) -> bool:
        """Forget the holders that are revoked, by their names or by their invites; return whether there were any."""
        revoked = [
            peer for peer, invite in self.holders.items() if peer in peers or invite in invites
        ]
        for peer in revoked:
            del self.holders[peer]
        left = set(self.holders.values())
        self.left_s = {each: left_s for each, left_s in self.left_s.items() if each in left}
        return bool(revoked)
