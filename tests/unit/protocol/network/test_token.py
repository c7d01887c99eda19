from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.network import JoinToken, Role
from capamesh.protocol.network.token import MAX_TOKEN_CHARS

if TYPE_CHECKING:
    from .conftest import Network

SECOND = timedelta(seconds=1)
ASK = "ask the network's owner for a new one: capamesh network token"


def checked(payload: bytes) -> str:
    raw = hashlib.sha256(payload).digest()[:4] + payload
    return "capamesh1" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def text_of(parts: object) -> str:
    return checked(msgpack.packb(parts))


def parts_of(token: JoinToken) -> list[object]:
    return [list(token.bootstrap), token.invite_key, token.invite_der, token.ca_der]


def test_token_decodes_to_what_was_invited(home: Network) -> None:
    text = home.router_token.encode()
    assert text.startswith("capamesh1")
    assert len(text) < 1600
    token = JoinToken.decode(text, home.now)
    assert token == home.router_token
    assert token.role is Role.ROUTER
    assert token.network_id == home.owner.network_id
    assert token.expires_at == home.now + timedelta(days=30)
    assert token.bootstrap == ("/dns4/router.example/tcp/7400", "/ip4/192.0.2.7/tcp/7400")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no join token: one starts with 'capamesh1'"),
        ("capamesh2AAAA", "of another version, not capamesh1: upgrade capamesh"),
        ("capamesh1", "cut short or mistyped"),
        ("capamesh1AA=A", "'=' at character 12 is not part of a token"),
        ("capamesh1AA\nA", r"'\\n' at character 12 is not part of a token"),
        ("capamesh1é", "'é' at character 10 is not part of a token"),
        ("capamesh1" + "A" * MAX_TOKEN_CHARS, "at most 16384 characters, this text 16393"),
        (text_of(7), "malformed: not its four parts"),
        (text_of([[], "", b"", b""]), "malformed: not its four parts"),
        (text_of([[7], bytes(32), b"", b""]), "malformed: a part has a wrong type or size"),
        (text_of([[], bytes(31), b"", b""]), "malformed: a part has a wrong type or size"),
        (text_of({"a": 1}), "malformed: "),
        (text_of([["a b"], bytes(32), b"", b""]), "'a b' is no bootstrap address"),
        (
            text_of([[], bytes(32), b"", b""]),
            "not of one network: malformed: .*capamesh network token",
        ),
        (text_of([[], bytes(32), b"", bytes(9000)]), "malformed: "),
    ],
)
def test_text_that_is_no_token_is_refused_with_the_reason(
    home: Network, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        JoinToken.decode(text, home.now)


def test_parts_of_two_networks_are_no_token(home: Network, stranger: Network) -> None:
    ours, theirs = parts_of(home.node_token), parts_of(stranger.node_token)
    with pytest.raises(ConfigError, match=rf"not of one network: wrong network: .*{ASK}"):
        JoinToken.decode(text_of([*ours[:3], theirs[3]]), home.now)
    with pytest.raises(ConfigError, match=rf"key is not its invite's; {ASK}"):
        JoinToken.decode(text_of([ours[0], theirs[1], *ours[2:]]), home.now)
    garbled = home.node_token.invite_der[:-1] + bytes([home.node_token.invite_der[-1] ^ 2])
    with pytest.raises(ConfigError, match="not of one network: bad signature"):
        JoinToken.decode(text_of([*ours[:2], garbled, ours[3]]), home.now)


@pytest.mark.parametrize(
    ("bootstrap", "message"),
    [
        (("a",) * 17, "at most 16 bootstrap addresses, not 17"),
        (("a" * 257,), "1 to 256 ASCII characters"),
        (("a b",), "'a b' is no bootstrap address"),
        (("é",), "'é' is no bootstrap address"),
    ],
)
def test_owner_cannot_put_what_is_no_address_into_a_token(
    home: Network, bootstrap: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        home.owner.invite(
            Role.NODE, expires_at=home.now + SECOND, bootstrap=bootstrap, now=home.now
        )


def test_token_ends_with_its_invite_and_from_the_future_blames_the_clock(home: Network) -> None:
    text = home.node_token.encode()
    ends = home.node_token.expires_at
    assert JoinToken.decode(text, ends) == home.node_token
    with pytest.raises(ConfigError, match=rf"expired at 2027-03-31T12:00:00Z.*{ASK}"):
        JoinToken.decode(text, ends + SECOND)
    with pytest.raises(ConfigError, match=r"valid from 2027-03-01T11:50.*set this machine's clock"):
        JoinToken.decode(text, home.now - timedelta(minutes=21))


@given(
    st.text(max_size=200)
    | st.text(alphabet="AZaz09-_", max_size=200).map("capamesh1".__add__)
    | st.binary(max_size=300).map(checked)
    | st.recursive(st.binary() | st.text() | st.integers(0, 9), st.lists, max_leaves=20).map(
        text_of
    )
)
def test_junk_is_a_config_error(home: Network, text: str) -> None:
    payload: bytes = msgpack.packb(parts_of(home.node_token))
    others = (payload + b"\xc0", b"\xdc\x00\x04" + payload[1:], b"\x91" * 9000)
    for junk in (text, *map(checked, others)):
        with pytest.raises(ConfigError):
            JoinToken.decode(junk, home.now)


@settings(max_examples=100)
@given(st.data())
def test_mistyped_character_or_a_token_cut_short_is_found(
    home: Network, data: st.DataObject
) -> None:
    text = home.node_token.encode()
    position = data.draw(st.integers(0, len(text) - 1))
    changed = (
        text[:position] + data.draw(st.sampled_from("ABCXYZabcxyz0189-_")) + text[position + 1 :]
    )
    if changed != text:
        with pytest.raises(ConfigError):
            JoinToken.decode(changed, home.now)
    if position >= 9:
        with pytest.raises(ConfigError, match=r"cut short or mistyped.*copy the whole of it again"):
            JoinToken.decode(text[:position], home.now)


@given(
    st.lists(
        st.text(alphabet=[chr(code) for code in range(33, 127)], min_size=1, max_size=256),
        max_size=16,
    )
)
def test_every_token_comes_back_from_its_text(home: Network, bootstrap: list[str]) -> None:
    token = JoinToken.assemble(
        bootstrap, home.node_token.invite_key, home.node_token.invite_der, home.owner.ca_der
    )
    assert token.encode() == text_of(parts_of(token))
    assert JoinToken.decode(f"  {token.encode()}\n", home.now) == token
    assert "invite_key" not in repr(token)
