from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError, ProtocolViolation
from capamesh.protocol.identity import peer_id_of
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import MAX_LIST_BYTES, REVOCATIONS_FILE, RevocationList, revocation

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Network

SERIAL = "00" + "ab" * 19
PEER_IDS = st.binary(min_size=32, max_size=32).map(peer_id_of)
SERIALS = st.binary(min_size=20, max_size=20).map(bytes.hex)


def empty(home: Network) -> RevocationList:
    return RevocationList.empty(home.owner.network_id)


def signed(home: Network, fields: object) -> bytes:
    payload: bytes = fields if isinstance(fields, bytes) else msgpack.packb(fields)
    return home.owner.private_key.sign(b"capamesh-revocations-1\0" + payload) + payload


def fields_of(home: Network) -> dict[str, object]:
    return {
        "v": 1,
        "net": home.owner.network_id,
        "version": 3,
        "at": 1_800_000_000,
        "peers": [bytes(32), b"\xff" * 32],
        "invites": [bytes.fromhex(SERIAL)],
    }


def test_bytes_are_a_signature_and_a_sorted_map(home: Network) -> None:
    raw = signed(home, fields_of(home))
    decoded = RevocationList.decode(raw, home.owner.ca_der)
    assert decoded == RevocationList(
        network_id=home.owner.network_id,
        version=3,
        issued_at=datetime.fromtimestamp(1_800_000_000, UTC),
        peers=frozenset({peer_id_of(bytes(32)), peer_id_of(b"\xff" * 32)}),
        invites=frozenset({SERIAL}),
        signature=raw[:64],
    )
    assert decoded.encode() == raw


@settings(max_examples=50)
@given(st.frozensets(PEER_IDS, max_size=5), st.frozensets(SERIALS, max_size=5))
def test_every_list_comes_back_from_its_bytes(
    home: Network, peers: frozenset[PeerId], invites: frozenset[str]
) -> None:
    issued = home.owner.revoke(empty(home), peers=peers, invites=invites, now=home.now)
    assert RevocationList.decode(issued.encode(), home.owner.ca_der) == issued


def test_each_revocation_adds_to_the_list_before_it(home: Network) -> None:
    first = home.owner.revoke(empty(home), peers=[peer_id_of(bytes(32))], now=home.now)
    second = home.owner.revoke(first, invites=[SERIAL], now=home.now + timedelta(seconds=1.5))
    assert (first.version, second.version) == (1, 2)
    assert second.peers == first.peers == {peer_id_of(bytes(32))}
    assert second.invites == {SERIAL}
    assert second.issued_at == home.now + timedelta(seconds=1)
    assert second.is_newer_than(first)
    assert not first.is_newer_than(second)
    assert not first.is_newer_than(first)


def test_two_lists_of_one_version_are_ordered_the_same_everywhere(home: Network) -> None:
    one = home.owner.revoke(empty(home), peers=[peer_id_of(bytes(32))], now=home.now)
    two = home.owner.revoke(empty(home), invites=[SERIAL], now=home.now)
    assert one.is_newer_than(two) is not two.is_newer_than(one)
    later = home.owner.revoke(empty(home), now=home.now + timedelta(seconds=1))
    assert later.is_newer_than(one)
    assert later.is_newer_than(two)


def test_another_networks_list_is_refused(home: Network, stranger: Network) -> None:
    foreign = stranger.owner.revoke(empty(stranger), now=home.now)
    with pytest.raises(
        ProtocolViolation, match=f"not signed by the owner of {home.owner.network_id}"
    ):
        RevocationList.decode(foreign.encode(), home.owner.ca_der)
    with pytest.raises(ConfigError, match=f"is of {stranger.owner.network_id}, not of"):
        home.owner.revoke(foreign, now=home.now)


def test_list_is_refused_by_its_size_before_anything_else(
    home: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ProtocolViolation, match="oversize: a revocation list of 1048577 bytes, at most 1048576"
    ):
        RevocationList.decode(bytes(MAX_LIST_BYTES + 1), home.owner.ca_der)
    monkeypatch.setattr(revocation, "MAX_LIST_BYTES", 300)
    with pytest.raises(ConfigError, match="at most 300: revoke the invites"):
        home.owner.revoke(
            empty(home), peers=[peer_id_of(bytes([n]) * 32) for n in range(9)], now=home.now
        )


@pytest.mark.parametrize(
    "change",
    [
        *[{"v": version} for version in (2, None)],
        *[{"net": network} for network in ("cm-" + "0" * 32, 7)],
        *[{"version": version} for version in (0, True, "3", 3.0)],
        *[{"at": at} for at in (1.5, "now", 2**63, None)],
        *[{"peers": peers} for peers in (None, [7], [bytes(31)], ["a" * 32])],
        {"peers": [b"\xff" * 32, bytes(32)]},
        {"peers": [bytes(32), bytes(32)]},
        *[{"invites": invites} for invites in ([bytes(19)], [bytes(21)], [SERIAL])],
        {"invites": {bytes(20): 1}},
        {"more": 1},
        *[[], b"", b"\xc1", b"\x91" * 5000],
    ],
)
def test_signed_list_of_another_form_is_malformed(
    home: Network, change: dict[str, object] | list[object] | bytes
) -> None:
    fields = fields_of(home) | change if isinstance(change, dict) else change
    with pytest.raises(ProtocolViolation, match=r"^malformed: the revocation list "):
        RevocationList.decode(signed(home, fields), home.owner.ca_der)


@given(st.data())
def test_changed_or_truncated_list_is_refused(home: Network, data: st.DataObject) -> None:
    raw = bytearray(signed(home, fields_of(home)))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolViolation, match=r"^bad signature"):
        RevocationList.decode(bytes(raw), home.owner.ca_der)


def test_saved_list_loads_again_and_no_file_is_the_empty_list(
    home: Network, tmp_path: Path
) -> None:
    empty(home).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert RevocationList.load(tmp_path, home.owner.ca_der) == empty(home)
    issued = home.owner.revoke(empty(home), invites=[SERIAL], now=home.now)
    issued.save(tmp_path)
    assert (tmp_path / REVOCATIONS_FILE).read_bytes() == issued.encode()
    assert RevocationList.load(tmp_path, home.owner.ca_der) == issued
    (tmp_path / REVOCATIONS_FILE).write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"/revocations\.bin: bad signature.*restore it"):
        RevocationList.load(tmp_path, home.owner.ca_der)


def test_owner_revokes_no_text_that_is_no_serial_or_peer_id_and_signs_no_forged_list(
    home: Network,
) -> None:
    for serial in ("", "AB" * 20, "0x" + "ab" * 19, "ab" * 21, "é" * 40, " " * 40):
        with pytest.raises(ConfigError, match="is no invite's serial: one has 40 digits"):
            home.owner.revoke(empty(home), invites=[serial], now=home.now)
    with pytest.raises(ConfigError, match="'QmNoSuchPeer' is no peer id"):
        home.owner.revoke(empty(home), peers=[PeerId("QmNoSuchPeer")], now=home.now)
    forged = dataclasses.replace(empty(home), version=4)
    with pytest.raises(ConfigError, match="version 4, is not signed by the owner"):
        home.owner.revoke(forged, now=home.now)
