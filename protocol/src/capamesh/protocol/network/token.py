"""The join token: one line of text that admits whoever holds it to a network, in one role. Pure.

"capamesh1", then base64url without padding of a checksum (4 bytes of SHA-256) and a msgpack list: bootstrap
addresses, the invite's private key, the invite, the network's certificate. Network, role and expiry are
read from the invite, so that a token cannot contradict itself. The "1" is the format's version.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from capamesh.protocol.errors import ConfigError, NotMember
from capamesh.protocol.identity import KEY_BYTES
from capamesh.protocol.msgpack_codec import pack, unpack
from capamesh.protocol.network.authority import read_authority
from capamesh.protocol.network.certificates import CLOCK_SKEW
from capamesh.protocol.network.chain import read_invite

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from capamesh.protocol.ids import NetworkId
    from capamesh.protocol.network.certificates import Role

PREFIX = "capamesh1"

MAX_TOKEN_CHARS = 16 * 1024
"""The longest token (guess: one with two bootstrap addresses has about 1,200 characters)."""

MAX_BOOTSTRAP = 16
"""The most bootstrap addresses (guess: three routers are enough to find the rest)."""

MAX_ADDRESS_CHARS = 256
"""The longest address (guess: a DNS name has at most 253 characters, a relayed address with two peer ids about 200)."""

ASK_FOR_ANOTHER = "ask the network's owner for a new one: capamesh token, where `capamesh up` runs, or capamesh network token"

_CHECKSUM_BYTES = 4
"""Base58Check's length: one wrong token in four billion passes, and then a signature fails."""

_NAME = "capamesh"
_DIGITS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """An invite with its key: a secret that makes members until `expires_at` (UTC).

    `bootstrap` are addresses of members to dial first. The text form of the value hides the key.
    """

    network_id: NetworkId
    role: Role
    expires_at: datetime
    bootstrap: tuple[str, ...]
    invite_key: bytes = field(repr=False)
    invite_der: bytes = field(repr=False)
    ca_der: bytes = field(repr=False)

    @classmethod
    def assemble(
        cls, bootstrap: Sequence[str], invite_key: bytes, invite_der: bytes, ca_der: bytes
    ) -> JoinToken:
        """Return the token of an invite, its raw private key (32 bytes) and its network's certificate.

        Raises `ConfigError` when they do not belong together or an address is none.
        """
        _check_bootstrap(bootstrap)
        try:
            authority = read_authority(ca_der)
            invite = read_invite(authority, invite_der)
        except NotMember as exc:
            raise ConfigError(
                f"the join token's invite and certificate are not of one network: {exc.message}; "
                f"{ASK_FOR_ANOTHER}"
            ) from exc
        public_key = Ed25519PrivateKey.from_private_bytes(invite_key).public_key()
        if public_key.public_bytes_raw() != invite.key.public_bytes_raw():
            raise ConfigError(f"the join token's key is not its invite's; {ASK_FOR_ANOTHER}")
        return cls(
            network_id=invite.network_id,
            role=invite.role,
            expires_at=min(invite.not_after, authority.not_after),
            bootstrap=tuple(bootstrap),
            invite_key=invite_key,
            invite_der=invite_der,
            ca_der=ca_der,
        )

    def encode(self) -> str:
        """Return the token as text, a secret; the same token always gives the same one."""
        payload = pack([list(self.bootstrap), self.invite_key, self.invite_der, self.ca_der])
        return PREFIX + _base64(_checksum(payload) + payload)

    @classmethod
    def decode(cls, text: str, now: datetime) -> JoinToken:
        """Return the token in `text`; blanks around it are ignored.

        Raises `ConfigError`, which says what to do: not a token, too long, cut short or mistyped,
        malformed, parts that do not belong together, expired, not yet valid. It never repeats the token.
        """
        token = cls.parse(text)
        token.check_time(now)
        return token

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Return the token in `text`, whether it can be used now or not; raises `ConfigError` as `decode` does."""
        token = cls._from_payload(_checked_payload(text))
        if token.encode() != text.strip():
            raise ConfigError(
                f"the join token is malformed: not in its one true form; {ASK_FOR_ANOTHER}"
            )
        return token

    @property
    def lasts(self) -> timedelta:
        """Return how long it could be used when it was made."""
        invite = read_invite(read_authority(self.ca_der), self.invite_der)
        return self.expires_at - invite.not_before - CLOCK_SKEW

    def check_time(self, now: datetime) -> None:
        """Raise `ConfigError` unless the invite can be used at `now`, 10 minutes early included."""
        if now > self.expires_at:
            raise ConfigError(
                f"the join token expired at {self.expires_at:%Y-%m-%dT%H:%M:%SZ}; it is "
                f"{now:%Y-%m-%dT%H:%M:%S%z}; {ASK_FOR_ANOTHER}"
            )
        starts_at = read_invite(read_authority(self.ca_der), self.invite_der).not_before
        if now + CLOCK_SKEW < starts_at:
            raise ConfigError(
                f"the join token is valid from {starts_at:%Y-%m-%dT%H:%M:%SZ}; it is "
                f"{now:%Y-%m-%dT%H:%M:%S%z}: set this machine's clock"
            )

    @classmethod
    def _from_payload(cls, payload: bytes) -> JoinToken:
        try:
            value = unpack(payload, max_array_items=MAX_BOOTSTRAP)
        except ValueError as exc:
            raise ConfigError(f"the join token is malformed: {exc}; {ASK_FOR_ANOTHER}") from exc
        match value:
            case [list(), bytes() as key, bytes() as invite, bytes() as authority]:
                addresses = cast("list[list[object]]", value)[0]
            case _:
                raise ConfigError(
                    f"the join token is malformed: not its four parts; {ASK_FOR_ANOTHER}"
                )
        texts = [address for address in addresses if isinstance(address, str)]
        if len(texts) != len(addresses) or len(key) != KEY_BYTES:
            raise ConfigError(
                f"the join token is malformed: a part has a wrong type or size; {ASK_FOR_ANOTHER}"
            )
        return cls.assemble(texts, key, invite, authority)


def _checked_payload(text: str) -> bytes:
    if len(text) > MAX_TOKEN_CHARS:
        raise ConfigError(
            f"a join token has at most {MAX_TOKEN_CHARS} characters, this text {len(text)}: "
            "copy the token alone"
        )
    text = text.strip()
    if not text.startswith(PREFIX):
        if text.startswith(_NAME) and text[len(_NAME) :][:1].isdigit():
            raise ConfigError(
                f"the join token is of another version, not {PREFIX}: upgrade capamesh, or {ASK_FOR_ANOTHER}"
            )
        raise ConfigError(f"this is no join token: one starts with {PREFIX!r}; {ASK_FOR_ANOTHER}")
    digits = text[len(PREFIX) :]
    for position, digit in enumerate(digits, start=len(PREFIX) + 1):
        if digit not in _DIGITS:
            raise ConfigError(
                f"the join token is malformed: {digit!r} at character {position} is not part of a token: "
                "copy it again, in one piece"
            )
    broken = ConfigError(
        f"the join token is cut short or mistyped: the checksum of its {len(text)} characters is wrong: "
        f"copy the whole of it again, or {ASK_FOR_ANOTHER}"
    )
    if len(digits) % 4 == 1:  # no number of bytes has this length
        raise broken
    raw = base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4))
    checksum, payload = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    if checksum != _checksum(payload):
        raise broken
    return payload


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECKSUM_BYTES]


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _check_bootstrap(bootstrap: Sequence[str]) -> None:
    if len(bootstrap) > MAX_BOOTSTRAP:
        raise ConfigError(
            f"a join token holds at most {MAX_BOOTSTRAP} bootstrap addresses, not {len(bootstrap)}"
        )
    for address in bootstrap:
        is_plain = address.isascii() and address.isprintable() and " " not in address
        if not is_plain or not 0 < len(address) <= MAX_ADDRESS_CHARS:
            raise ConfigError(
                f"{address[:MAX_ADDRESS_CHARS]!r} is no bootstrap address: use 1 to "
                f"{MAX_ADDRESS_CHARS} ASCII characters without blanks"
            )
