"""Decides what becomes of a gossiped payload: deliver and forward, ignore, or blame. Pure.

The time is an argument. It never raises, whatever the bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from capamesh.protocol.adverts import (
    KIND_ADVERT,
    KIND_GOODBYE,
    KIND_ROUTER,
    RejectReason,
    Sequence,
    is_acceptable,
    is_forwarder_to_blame,
    open_envelope,
)
from capamesh.protocol.adverts.interval import MAX_INTERVAL_S
from capamesh.protocol.errors import AdvertRejected, ProtocolViolation
from capamesh.protocol.fleet import EXPIRE_AFTER
from capamesh.protocol.invite_quotas import InviteQuotas
from capamesh.protocol.mesh.gossip import MAX_PAYLOAD_BYTES, PayloadKind, unwrap
from capamesh.protocol.network import RevocationList
from capamesh.protocol.network_clock import (
    NetworkClock,
    check_boot_by,
    check_time_by,
    is_order_void,
)

if TYPE_CHECKING:
    from capamesh.protocol.adverts import Envelope
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import NetworkTrust

MAX_SENDERS: Final = 100_000
"""The most senders that are remembered (guess: five times the largest fleet view; about 20 MB)."""

SENDER_MESSAGES_PER_S: Final = 5.0
"""The messages of one sender in a second, in the long run (guess: a node tells of changes, a handful while its models load)."""

SENDER_BURST: Final = 50.0
"""The messages that one sender may send at once (guess: a node that loads all its models at once)."""

INVITE_MESSAGES_PER_S: Final = 0.5
"""The messages in a second of an invite's members, for each that it admits, beside what one sender may (guess: ten times
what members send that advertise every 10 s and change now and then)."""

INVITE_BURST: Final = 4.0
"""The messages at once of an invite's members, for each that it admits, beside what one sender may (guess: all start at
once, and load)."""

EXPIRE_AFTER_S: Final = EXPIRE_AFTER * MAX_INTERVAL_S
"""A member that is not heard for so long has left, whatever interval it told."""

SPARE_PLACES: Final = 8
"""The places of each invite beyond what it admits: the owner of this process keeps to that number, and sees here which
members are too many."""

_KNOWN_KINDS: Final = frozenset({KIND_ADVERT, KIND_GOODBYE, KIND_ROUTER})

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Verdict(Enum):
    """The verdict on a message; the names are gossipsub's own."""

    ACCEPT = "accept"
    """Deliver and forward it."""
    IGNORE = "ignore"
    """Drop it; an honest forwarder may send such."""
    REJECT = "reject"
    """Drop it and count it against the forwarder."""


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """A verdict, and what it is about: the reason for dropping, or what to deliver."""

    verdict: Verdict
    reason: str
    """Empty when accepted; else a word to count by."""
    kind: PayloadKind | None = None
    body: bytes = b""


class Validator:
    """Remembers the newest sequence and the recent rate of each sender, and who has a place by which invite.

    It judges times by a `NetworkClock`: of a message of somebody whose sequence is known only the start is looked at, for
    what is newer is no replay.
    """

    def __init__(
        self, ca_der: bytes, trust: NetworkTrust, clock: NetworkClock | None = None
    ) -> None:
        self._ca_der = ca_der
        self._trust = trust
        self._clock = clock
        self._newest: OrderedDict[tuple[PeerId, str], Sequence] = OrderedDict()
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._quotas = InviteQuotas(SPARE_PLACES)
        self._until_s: OrderedDict[PeerId, float] = OrderedDict()
        """The time at which each sender with a place loses it unless it is heard again; the earliest first."""

    def judge(
        self, payload: bytes, publisher: PeerId, now_ms: int, steady_s: float | None = None
    ) -> ValidationResult:
        """Judge a payload whose publisher is proved by the gossip message's own signature.

        `now_ms` is the wall clock in milliseconds since the epoch, `steady_s` a clock that nobody sets; where there is
        none, the wall clock is taken for it.
        """
        if steady_s is None:
            steady_s = now_ms / 1000
        if len(payload) > MAX_PAYLOAD_BYTES:
            return ValidationResult(Verdict.REJECT, RejectReason.OVERSIZE)
        unwrapped = unwrap(payload)
        if unwrapped is None:
            return ValidationResult(Verdict.IGNORE, "kind")
        kind, body = unwrapped
        budget = self._budget(publisher, SENDER_BURST, SENDER_MESSAGES_PER_S, steady_s)
        if budget < 1.0:
            return ValidationResult(Verdict.IGNORE, "rate")
        if kind is PayloadKind.REVOCATIONS:
            reason, is_blamed = self._refuse_list(body)
        elif kind is PayloadKind.DRAINS:
            reason, is_blamed = self._refuse_drains(body)
        else:
            reason, is_blamed = self._refuse_envelope(body, publisher, now_ms, steady_s)
        if reason:
            return ValidationResult(Verdict.REJECT if is_blamed else Verdict.IGNORE, reason)
        # Only what is accepted costs the sender: else a forwarder could mute it with its old messages.
        self._remember(self._budgets, publisher, (budget - 1.0, steady_s))
        return ValidationResult(Verdict.ACCEPT, "", kind, body)

    def membership_ms(self, now_ms: int, steady_s: float) -> int:
        """Return the time of day by which memberships are judged."""
        return now_ms if self._clock is None else self._clock.membership_ms(now_ms, steady_s)

    def _refuse_envelope(
        self, body: bytes, publisher: PeerId, now_ms: int, steady_s: float
    ) -> tuple[str, bool]:
        try:
            envelope = open_envelope(
                body, self._trust, self.membership_ms(now_ms, steady_s), is_time_checked=False
            )
        except AdvertRejected as exc:
            return exc.reason, is_forwarder_to_blame(exc.reason)
        if envelope.sender.peer_id != publisher:
            return "publisher", True
        # One slot for all unknown kinds: a member cannot fill the memory by making kinds up.
        slot = (publisher, envelope.kind if envelope.kind in _KNOWN_KINDS else "")
        known = self._newest.get(slot)
        if not is_acceptable(known, envelope.sequence):
            if not is_order_void(
                self._clock, known, envelope.issued_at_ms, envelope.sequence, now_ms, steady_s
            ):
                return "replay", False
            known = None
        if self._clock is not None:
            self._clock.heard(
                publisher, envelope.sender.invite_serial, envelope.issued_at_ms, steady_s
            )
        try:
            if known is None:
                check_time_by(
                    self._clock, envelope.issued_at_ms, envelope.sequence, now_ms, steady_s
                )
            else:
                check_boot_by(self._clock, known, envelope.sequence, now_ms, steady_s)
        except AdvertRejected as exc:
            return exc.reason, False
        refusal = self._refuse_member(envelope, steady_s)
        if refusal:
            return refusal, False
        self._remember(self._newest, slot, envelope.sequence)
        return "", False

    def _refuse_member(self, envelope: Envelope, steady_s: float) -> str:
        """Return "quota" or "invite_rate" for a member of an invite of which too many came, or that sends too much."""
        member = envelope.sender
        while self._until_s:
            peer, until_s = next(iter(self._until_s.items()))
            if until_s > steady_s:
                break
            self._drop_member(peer)
        if self._quotas.refusal(member):
            return RejectReason.QUOTA
        invite, members = member.invite_serial, member.invite_members
        budget = self._budget(
            invite,
            SENDER_BURST + INVITE_BURST * members,
            SENDER_MESSAGES_PER_S + INVITE_MESSAGES_PER_S * members,
            steady_s,
        )
        if budget < 1.0:
            return "invite_rate"
        self._remember(self._budgets, invite, (budget - 1.0, steady_s))
        if envelope.kind == KIND_GOODBYE:
            self._drop_member(member.peer_id)
        else:
            self._quotas.keep(member, 0)
            self._until_s[member.peer_id] = steady_s + EXPIRE_AFTER_S
            self._until_s.move_to_end(member.peer_id)
        return ""

    def _drop_member(self, peer: PeerId) -> None:
        self._until_s.pop(peer, None)
        self._quotas.left(peer)

    def _refuse_list(self, body: bytes) -> tuple[str, bool]:
        try:
            newer = RevocationList.decode(body, self._ca_der)
        except ProtocolViolation:
            return RejectReason.SIGNATURE, True
        if not newer.is_newer_than(self._trust.revocations):
            return "replay", False
        return "", False

    def _refuse_drains(self, body: bytes) -> tuple[str, bool]:
        try:
            order = self._trust.newer_drains(body)
        except ProtocolViolation as exc:
            if exc.message.startswith("retired owner key"):
                return "replay", False  # whoever sent it may not have heard of that
            return RejectReason.SIGNATURE, True
        return ("replay", False) if order is None else ("", False)

    def _budget(self, who: str, burst: float, per_s: float, steady_s: float) -> float:
        budget, updated_s = self._budgets.get(who, (burst, steady_s))
        gained = max(0.0, steady_s - updated_s) * per_s
        return min(burst, budget + gained)

    @staticmethod
    def _remember(table: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
        table[key] = value
        table.move_to_end(key)
        if len(table) > MAX_SENDERS:
            table.popitem(last=False)
