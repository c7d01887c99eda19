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
from capamesh.protocol.errors import AdvertRejected, ProtocolViolation
from capamesh.protocol.mesh.gossip import MAX_PAYLOAD_BYTES, PayloadKind, unwrap
from capamesh.protocol.network import RevocationList

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import NetworkTrust

MAX_SENDERS: Final = 100_000
"""Guess: five times the largest fleet view; about 20 MB."""

SENDER_MESSAGES_PER_S: Final = 5.0
"""Guess: a node tells of changes, a handful while its models load; ten times that is a flood."""

SENDER_BURST: Final = 50.0
"""Guess: a node that loads all its models at once."""

_KNOWN_KINDS: Final = frozenset({KIND_ADVERT, KIND_GOODBYE, KIND_ROUTER})

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Verdict(Enum):
    """What gossipsub does with a message; the names are gossipsub's own."""

    ACCEPT = "accept"
    """Deliver and forward it."""
    IGNORE = "ignore"
    """Drop it; an honest forwarder may send such."""
    REJECT = "reject"
    """Drop it and count it against the forwarder."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and what it is about: the reason for dropping, or what to deliver."""

    verdict: Verdict
    reason: str
    """Empty when accepted; else a word to count by."""
    kind: PayloadKind | None = None
    body: bytes = b""


class Judge:
    """Remembers the newest sequence and the recent rate of each sender."""

    def __init__(self, ca_der: bytes, trust: NetworkTrust) -> None:
        self._ca_der = ca_der
        self._trust = trust
        self._newest: OrderedDict[tuple[PeerId, str], Sequence] = OrderedDict()
        self._budgets: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    def judge(self, payload: bytes, publisher: PeerId, now_ms: int) -> Judgement:
        """Judge a payload whose publisher is proved by the gossip message's own signature.

        `now_ms` is the wall clock in milliseconds since the epoch.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            return Judgement(Verdict.REJECT, RejectReason.OVERSIZE)
        unwrapped = unwrap(payload)
        if unwrapped is None:
            return Judgement(Verdict.IGNORE, "kind")
        kind, body = unwrapped
        budget = self._budget(publisher, now_ms)
        if budget < 1.0:
            return Judgement(Verdict.IGNORE, "rate")
        if kind is PayloadKind.REVOCATIONS:
            reason, is_blamed = self._refuse_list(body)
        else:
            reason, is_blamed = self._refuse_envelope(body, publisher, now_ms)
        if reason:
            return Judgement(Verdict.REJECT if is_blamed else Verdict.IGNORE, reason)
        # Only what is accepted costs the sender: else a forwarder could mute it with its old messages.
        self._remember(self._budgets, publisher, (budget - 1.0, now_ms))
        return Judgement(Verdict.ACCEPT, "", kind, body)

    def _refuse_envelope(self, body: bytes, publisher: PeerId, now_ms: int) -> tuple[str, bool]:
        try:
            envelope = open_envelope(body, self._trust, now_ms)
        except AdvertRejected as exc:
            return exc.reason, is_forwarder_to_blame(exc.reason)
        if envelope.sender.peer_id != publisher:
            return "publisher", True
        # One slot for all unknown kinds: a member cannot fill the memory by making kinds up.
        slot = (publisher, envelope.kind if envelope.kind in _KNOWN_KINDS else "")
        if not is_acceptable(self._newest.get(slot), envelope.sequence):
            return "replay", False
        self._remember(self._newest, slot, envelope.sequence)
        return "", False

    def _refuse_list(self, body: bytes) -> tuple[str, bool]:
        try:
            newer = RevocationList.decode(body, self._ca_der)
        except ProtocolViolation:
            return RejectReason.SIGNATURE, True
        if not newer.is_newer_than(self._trust.revocations):
            return "replay", False
        return "", False

    def _budget(self, publisher: PeerId, now_ms: int) -> float:
        budget, updated_ms = self._budgets.get(publisher, (SENDER_BURST, now_ms))
        gained = max(0.0, now_ms - updated_ms) / 1000 * SENDER_MESSAGES_PER_S
        return min(SENDER_BURST, budget + gained)

    @staticmethod
    def _remember(table: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
        table[key] = value
        table.move_to_end(key)
        if len(table) > MAX_SENDERS:
            table.popitem(last=False)
