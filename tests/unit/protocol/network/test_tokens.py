"""An owner, its join tokens, and the memberships that they give."""

from __future__ import annotations

import base64
import hashlib
import ssl
import stat
from datetime import timedelta
from typing import TYPE_CHECKING

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import (
    CHAIN_FILE,
    IDENTITY_FILE,
    NETWORK_FILE,
    OWNER_KEY_FILE,
    JoinToken,
    Membership,
    NetworkOwner,
    Role,
    tls_context,
)
from capamesh.protocol.network.token import MAX_TOKEN_CHARS

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Network


DAY = timedelta(days=1)


def test_network_needs_a_printable_name_of_64_bytes_at_most(home: Network) -> None:
    for kept in ("a", "é" * 32, "My network, 2027 = CN/O"):
        assert NetworkOwner.create(kept, home.now).name == kept
    for name in ("", " home", "home ", "ho\nme", "é" * 33, "a" * 65, "\ud800"):
        with pytest.raises(ConfigError, match="cannot name a network: use 1 to 64 bytes"):
            NetworkOwner.create(name, home.now)


@pytest.mark.parametrize(
    ("lasts", "bootstrap", "message"),
    [
        *[(timedelta(milliseconds=ms), (), "of no use at") for ms in (-86_400_000, 0, 900)],
        (DAY, ("a",) * 17, "at most 16 bootstrap addresses, not 17"),
        (DAY, ("a" * 257,), "1 to 256 ASCII characters"),
        (DAY, ("a b",), "'a b' is no bootstrap address"),
        (DAY, ("é",), "'é' is no bootstrap address"),
    ],
)
def test_owner_makes_no_token_that_is_over_or_leads_nowhere(
    home: Network, lasts: timedelta, bootstrap: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        home.owner.invite(Role.NODE, expires_at=home.now + lasts, bootstrap=bootstrap, now=home.now)


def test_saved_owner_loads_again_with_a_key_for_itself_alone_and_is_never_overwritten(
    home: Network, stranger: Network, tmp_path: Path
) -> None:
    folder = tmp_path / "owner"
    for _ in range(2):
        home.owner.save(folder)
    loaded, key = NetworkOwner.load(folder), folder / OWNER_KEY_FILE
    assert loaded == home.owner
    assert loaded.private_key.private_bytes_raw() == home.owner.private_key.private_bytes_raw()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["network.pem", "owner.key"]
    assert repr(loaded) == f"NetworkOwner(network_id={loaded.network_id!r}, name='home')"
    said = f"already holds another network's owner, that of {home.owner.network_id}: choose"
    with pytest.raises(ConfigError, match=rf"owner\.key {said}"):
        stranger.owner.save(folder)
    assert NetworkOwner.load(folder) == home.owner
    key.chmod(0o644)
    with pytest.raises(KeyExposed, match=r"owner's key .*owner\.key has mode 0644.*chmod 600"):
        NetworkOwner.load(folder)


def test_missing_damaged_and_mixed_files_are_named(
    home: Network, stranger: Network, tmp_path: Path
) -> None:
    stranger.owner.save(tmp_path / "other")
    certificate, other = tmp_path / NETWORK_FILE, tmp_path / "other" / NETWORK_FILE
    ours, theirs = home.owner.network_id, stranger.owner.network_id
    for step, said in (
        (lambda: None, "owner.key does not exist"),
        (lambda: (home.owner.save(tmp_path), certificate.unlink()), "network.pem does not exist"),
        (lambda: certificate.write_bytes(b"junk"), "network.pem is damaged: it holds no PEM"),
        (
            lambda: certificate.write_bytes(other.read_bytes()),
            f"it is of the network {ours}, the certificate of {theirs}; restore",
        ),
    ):
        step()
        with pytest.raises(ConfigError, match=said):
            NetworkOwner.load(tmp_path)


SECOND = timedelta(seconds=1)
ASK = "ask the network's owner for a new one: capamesh token, where `capamesh up` runs, or capamesh network token"


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
        (text_of([[], bytes(32), b"", b""]), "of one network: malformed: .*capamesh network token"),
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
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from("ABCXYZabcxyz0189-_")) + text[at + 1 :]
    if changed != text:
        with pytest.raises(ConfigError):
            JoinToken.decode(changed, home.now)
    if at >= 9:
        with pytest.raises(ConfigError, match=r"cut short or mistyped.*copy the whole of it again"):
            JoinToken.decode(text[:at], home.now)


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


def pem(*certificates: bytes) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates
    )


def test_joiner_gets_the_tokens_role_network_and_end(home: Network) -> None:
    identity = Identity.generate()
    token = JoinToken.decode(home.router_token.encode(), home.now)
    made = Membership.join(identity, token, home.now)
    leaf = x509.load_der_x509_certificate(made.chain[0])
    (name,) = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert (made.identity, made.role) == (identity, Role.ROUTER)
    assert made.network_id == home.owner.network_id
    assert made.expires_at == token.expires_at == leaf.not_valid_after_utc
    assert made.chain[1] == token.invite_der
    assert name.value == f"capamesh://{home.owner.network_id}/{identity.peer_id}"
    assert made.trust().verify(made.chain, home.now).peer_id == identity.peer_id


def test_last_second_of_a_token_admits_and_so_does_a_clock_within_the_skew(home: Network) -> None:
    ends = home.node_token.expires_at
    assert Membership.join(Identity.generate(), home.node_token, ends).expires_at == ends
    Membership.join(Identity.generate(), home.node_token, home.now - timedelta(minutes=20))
    for now, said in (
        (ends + SECOND, r"the join token expired at .*capamesh network token"),
        (home.now - timedelta(minutes=21), "set this machine's clock"),
    ):
        with pytest.raises(ConfigError, match=said):
            Membership.join(Identity.generate(), home.node_token, now)


def test_saved_membership_loads_again_and_keeps_no_invite_key(
    home: Network, tmp_path: Path
) -> None:
    folder = tmp_path / "member"
    home.node.save(folder)
    home.node.save(folder)
    assert Membership.load(folder, home.now) == home.node
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["chain.pem", "identity.key", "network.pem"]
    assert stat.S_IMODE((folder / IDENTITY_FILE).stat().st_mode) == 0o600
    assert (folder / CHAIN_FILE).read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert b"PRIVATE" not in (folder / CHAIN_FILE).read_bytes()
    assert repr(home.node.identity.private_bytes) not in repr(home.node)
    assert Membership.load(folder, home.node.expires_at) == home.node
    with pytest.raises(ConfigError, match=rf"{folder}: .* expired: .*capamesh network token"):
        Membership.load(folder, home.node.expires_at + SECOND)
    Membership.join(home.node.identity, home.router_token, home.now).save(folder)
    assert Membership.load(folder, home.now).role is Role.ROUTER
    with pytest.raises(ConfigError, match="already holds the identity"):
        home.router.save(folder)
    (folder / IDENTITY_FILE).chmod(0o640)
    with pytest.raises(KeyExposed, match="mode 0640"):
        Membership.load(folder, home.now)


@pytest.mark.parametrize("name", [IDENTITY_FILE, CHAIN_FILE, NETWORK_FILE])
def test_missing_or_garbled_file_is_named(home: Network, tmp_path: Path, name: str) -> None:
    home.node.save(tmp_path)
    (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(ConfigError, match=f"/{name} is (damaged|no unencrypted PEM key)"):
        Membership.load(tmp_path, home.now)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"/{name} does not exist"):
        Membership.load(tmp_path, home.now)


def test_files_that_do_not_belong_together_do_not_load(
    home: Network, stranger: Network, tmp_path: Path
) -> None:
    leaf, invite = home.node.chain
    ca = home.owner.ca_der
    for ca_der, certificates, message in (
        (ca, (leaf,), "it has 1 certificates, not 2"),
        (ca, (leaf, invite, ca), "malformed: the successor of the owner's key"),
        (ca, (invite, leaf), "not valid: malformed"),
        (ca, (leaf, home.router.chain[1]), "not valid: bad signature"),
        (ca, stranger.node.chain, "not valid: wrong network"),
        (ca, home.router.chain, f"is of {home.router.identity.peer_id}, the identity key of"),
        (stranger.owner.ca_der, home.node.chain, "not valid: wrong network"),
    ):
        home.node.save(tmp_path)
        (tmp_path / CHAIN_FILE).write_bytes(pem(*certificates))
        (tmp_path / NETWORK_FILE).write_bytes(pem(ca_der))
        with pytest.raises(ConfigError, match=message):
            Membership.load(tmp_path, home.now)


def test_tls_context_takes_members_alone_over_tls_1_3(home: Network, tmp_path: Path) -> None:
    for server_side in (True, False):
        context = tls_context(home.node, tmp_path, server_side=server_side)
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
        assert context.minimum_version is context.maximum_version is ssl.TLSVersion.TLSv1_3
        assert context.get_ca_certs(binary_form=True) == [home.owner.ca_der]
    assert Membership.load(tmp_path, home.now) == home.node
    with pytest.raises(ConfigError, match="holds another membership"):
        tls_context(home.router, tmp_path, server_side=True)
    renewed = Membership.join(home.node.identity, home.node_token, home.now)
    with pytest.raises(ConfigError, match="load it again after a change"):
        tls_context(renewed, tmp_path, server_side=False)
