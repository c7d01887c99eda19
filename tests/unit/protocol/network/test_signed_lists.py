"""The owner's lists of revoked and of drained members: their bytes, their bounds, whose they must be, and which of several holds."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError, ProtocolViolation
from capamesh.protocol.identity import peer_id_of
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import (
    MAX_LIST_BYTES,
    MAX_ORDER_BYTES,
    REVOCATIONS_FILE,
    DrainOrder,
    NetworkTrust,
    RevocationList,
    revocation,
)
from capamesh.protocol.network.authority import Authority, own_authority
from capamesh.protocol.network.drain_order import MAX_DRAINED

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Network

AT = 1_800_000_000
ISSUED = datetime.fromtimestamp(AT, UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
LONGEST_S = 30 * 86_400
ONE, LAST = peer_id_of(bytes(32)), peer_id_of(b"\xff" * 32)
SERIAL = "00" + "ab" * 19
PEER_IDS = st.binary(min_size=32, max_size=32).map(peer_id_of)
SERIALS = st.binary(min_size=20, max_size=20).map(bytes.hex)
REVOKES, DRAINS = "capamesh-revocations-1", "capamesh-drain-1"


def signed(home: Network, purpose: str, fields: object) -> bytes:
    payload: bytes = fields if isinstance(fields, bytes) else msgpack.packb(fields)
    return home.owner.private_key.sign(purpose.encode() + b"\0" + payload) + payload


def fields_of(home: Network, purpose: str, **others: object) -> dict[str, Any]:
    fields = {"v": 1, "net": home.owner.network_id, "version": 3, "at": AT}
    if purpose == REVOKES:
        listed = {"peers": [bytes(32), b"\xff" * 32], "invites": [bytes.fromhex(SERIAL)]}
    else:
        listed = {"peers": [[bytes(32), AT + 60], [b"\xff" * 32, AT + 3600]]}
    return {**fields, **listed, **others}


def read_list(home: Network, raw: bytes) -> RevocationList:
    return RevocationList.decode(raw, home.owner.ca_der)


def read_order(home: Network, raw: bytes) -> DrainOrder:
    return DrainOrder.decode(raw, own_authority(home.owner.ca_der))


def drained(home: Network, *peers: PeerId, after: DrainOrder | None = None) -> DrainOrder:
    """Return the owner's order that has these nodes drained for an hour."""
    return home.owner.drain(
        after or no_order(home), dict.fromkeys(peers, ISSUED + HOUR), now=ISSUED
    )


READ = {REVOKES: read_list, DRAINS: read_order}


def no_list(home: Network) -> RevocationList:
    return RevocationList.empty(home.owner.network_id)


def no_order(home: Network) -> DrainOrder:
    return DrainOrder.empty(home.owner.network_id)


# bytes


def test_bytes_are_a_signature_and_a_sorted_map(home: Network) -> None:
    raw = signed(home, REVOKES, fields_of(home, REVOKES))
    listed = RevocationList(
        network_id=home.owner.network_id,
        version=3,
        issued_at=ISSUED,
        peers=frozenset({ONE, LAST}),
        invites=frozenset({SERIAL}),
        signature=raw[:64],
    )
    assert (read_list(home, raw), listed.encode()) == (listed, raw)
    raw = signed(home, DRAINS, fields_of(home, DRAINS))
    order = DrainOrder(
        network_id=home.owner.network_id,
        version=3,
        issued_at=ISSUED,
        peers={ONE: ISSUED + 60 * SECOND, LAST: ISSUED + HOUR},
        signature=raw[:64],
    )
    assert (read_order(home, raw), order.encode()) == (order, raw)


@given(
    st.frozensets(SERIALS, max_size=5),
    st.dictionaries(
        PEER_IDS, st.integers(1, LONGEST_S).map(lambda left_s: ISSUED + left_s * SECOND), max_size=5
    ),
)
def test_every_list_comes_back_from_its_bytes(
    home: Network, invites: frozenset[str], peers: dict[PeerId, datetime]
) -> None:
    listed = home.owner.revoke(no_list(home), peers=peers, invites=invites, now=home.now)
    assert read_list(home, listed.encode()) == listed
    order = home.owner.drain(no_order(home), peers, now=ISSUED)
    assert (order.version, dict(order.peers)) == (1, peers)
    assert read_order(home, order.encode()) == order


@pytest.mark.parametrize(
    "change",
    [
        *[{"v": version} for version in (2, None)],
        *[{"net": network} for network in ("cm-" + "0" * 32, 7)],
        *[{"version": version} for version in (0, True, "3", 3.0)],
        *[{"at": at} for at in (AT + 0.5, "now", 2**63, None)],
        *[{"peers": peers} for peers in (None, [7], [bytes(31)], ["a" * 32], {"a": 1})],
        {"peers": [b"\xff" * 32, bytes(32)]},
        {"peers": [bytes(32), bytes(32)]},
        *[{"invites": invites} for invites in ([bytes(19)], [bytes(21)], [SERIAL])],
        {"invites": {bytes(20): 1}},
        {"peers": [[bytes(32), AT]]},
        {"peers": [[bytes(32), AT + LONGEST_S + 1]]},
        {"peers": [[bytes(32), 2**62]]},
        {"peers": [[bytes(31), AT + 60]]},
        {"peers": [[bytes(32), AT + 60, 1]]},
        {"peers": [[bytes(32), AT + 60], [bytes(32), AT + 61]]},
        {"peers": [[b"\xff" * 32, AT + 60], [bytes(32), AT + 60]]},
        {"peers": [[number.to_bytes(32, "big"), AT + 60] for number in range(1025)]},
        {"more": 1},
        *[[], b"", b"\xc1", b"\x91" * 5000 + b"\xc0", b"\xdd\xff\xff\xff\xff", b"\x80\x80"],
    ],
)
@pytest.mark.parametrize("purpose", [REVOKES, DRAINS])
def test_signed_list_of_another_form_is_malformed(
    home: Network, purpose: str, change: dict[str, Any] | list[object] | bytes
) -> None:
    fields = fields_of(home, purpose, **change) if isinstance(change, dict) else change
    with pytest.raises(ProtocolViolation, match=r"^malformed: "):
        READ[purpose](home, signed(home, purpose, fields))


@given(st.data(), st.sampled_from([REVOKES, DRAINS]))
def test_changed_or_truncated_list_is_refused(
    home: Network, data: st.DataObject, purpose: str
) -> None:
    raw = bytearray(signed(home, purpose, fields_of(home, purpose)))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolViolation, match=r"^bad signature|^malformed: "):
        READ[purpose](home, bytes(raw))


@pytest.mark.parametrize(("purpose", "other"), [(REVOKES, DRAINS), (DRAINS, REVOKES)])
def test_list_that_the_network_s_owner_did_not_sign_as_such_is_refused(
    home: Network, stranger: Network, purpose: str, other: str
) -> None:
    fields = fields_of(home, purpose)
    for raw in (
        signed(stranger, purpose, fields),
        signed(home, other, fields),
        signed(home, purpose, fields) + b"\0",
        purpose.encode() + signed(home, purpose, fields),
        bytes(64) + msgpack.packb(fields),
    ):
        with pytest.raises(ProtocolViolation, match=r"^bad signature: "):
            READ[purpose](home, raw)
    most = MAX_LIST_BYTES if purpose == REVOKES else MAX_ORDER_BYTES
    with pytest.raises(ProtocolViolation, match=r"^oversize: "):
        READ[purpose](home, bytes(most + 1))


# what an owner signs


def test_owner_signs_no_list_that_is_foreign_forged_or_too_long(
    home: Network, stranger: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = stranger.owner.revoke(no_list(stranger), now=home.now)
    forged = dataclasses.replace(no_list(home), version=4)
    for listed, said in (
        (foreign, f"is of {stranger.owner.network_id}, not of"),
        (forged, "version 4, is not signed by the owner"),
    ):
        with pytest.raises(ConfigError, match=said):
            home.owner.revoke(listed, now=home.now)
    for serial in ("", "AB" * 20, "0x" + "ab" * 19, "ab" * 21, "é" * 40, " " * 40):
        with pytest.raises(ConfigError, match="is no invite's serial: one has 40 digits"):
            home.owner.revoke(no_list(home), invites=[serial], now=home.now)
    with pytest.raises(ConfigError, match="'QmNoSuchPeer' is no peer id"):
        home.owner.revoke(no_list(home), peers=[PeerId("QmNoSuchPeer")], now=home.now)
    monkeypatch.setattr(revocation, "MAX_LIST_BYTES", 300)
    peers = [peer_id_of(bytes([n]) * 32) for n in range(9)]
    with pytest.raises(ConfigError, match="at most 300: revoke the invites"):
        home.owner.revoke(no_list(home), peers=peers, now=home.now)


def test_largest_order_fits_and_one_with_more_nodes_or_time_is_not_signed(home: Network) -> None:
    peers = {
        peer_id_of(number.to_bytes(32, "big")): ISSUED + LONGEST_S * SECOND
        for number in range(MAX_DRAINED)
    }
    encoded = home.owner.drain(no_order(home), peers, now=ISSUED).encode()
    assert len(encoded) < MAX_ORDER_BYTES - 8 * 1024  # room for eight successors' certificates
    assert len(read_order(home, encoded).peers) == MAX_DRAINED
    for left in (timedelta(0), -HOUR, LONGEST_S * SECOND + SECOND):
        with pytest.raises(ConfigError, match="a drain ends within 30 days"):
            home.owner.drain(no_order(home), {ONE: ISSUED + left}, now=ISSUED)
    with pytest.raises(ConfigError, match="1025 nodes, at most 1024"):
        home.owner.drain(no_order(home), {**peers, LAST: ISSUED + HOUR}, now=ISSUED)


def test_each_revocation_adds_to_the_list_before_it(home: Network) -> None:
    first = home.owner.revoke(no_list(home), peers=[ONE], now=home.now)
    second = home.owner.revoke(first, invites=[SERIAL], now=home.now + 1.5 * SECOND)
    assert (first.version, second.version) == (1, 2)
    assert (second.peers, second.invites) == ({ONE}, {SERIAL})
    assert second.issued_at == home.now + SECOND
    assert [second.is_newer_than(first), first.is_newer_than(second)] == [True, False]
    assert not first.is_newer_than(first)
    # two of one version are ordered the same everywhere
    other = home.owner.revoke(no_list(home), invites=[SERIAL], now=home.now)
    assert first.is_newer_than(other) is not other.is_newer_than(first)
    later = home.owner.revoke(no_list(home), now=home.now + SECOND)
    assert later.is_newer_than(first)
    assert later.is_newer_than(other)


def test_saved_list_loads_again_and_no_file_is_the_empty_list(
    home: Network, tmp_path: Path
) -> None:
    no_list(home).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert RevocationList.load(tmp_path, home.owner.ca_der) == no_list(home)
    issued = home.owner.revoke(no_list(home), invites=[SERIAL], now=home.now)
    issued.save(tmp_path)
    assert (tmp_path / REVOCATIONS_FILE).read_bytes() == issued.encode()
    assert RevocationList.load(tmp_path, home.owner.ca_der) == issued
    (tmp_path / REVOCATIONS_FILE).write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"/revocations\.bin: bad signature.*restore it"):
        RevocationList.load(tmp_path, home.owner.ca_der)


# which drains hold


def test_drain_holds_from_its_signing_to_its_end(home: Network) -> None:
    order = drained(home, ONE)
    for now, until in (
        (ISSUED, ISSUED + HOUR),
        (ISSUED + HOUR, ISSUED + HOUR),
        (ISSUED + HOUR + SECOND, None),
        # the clocks of the signer and of a member may differ by some minutes, not by a day
        (ISSUED - 120 * SECOND, ISSUED + HOUR),
        (ISSUED - 24 * HOUR, None),
    ):
        assert order.until(ONE, now) == until
    assert order.until(home.node.identity.peer_id, ISSUED) is None


def test_trust_takes_newer_orders_alone_and_of_two_of_one_version_always_the_same(
    home: Network,
) -> None:
    trust = NetworkTrust(home.owner.ca_der)
    assert trust.encoded_drains == b""
    first = drained(home, ONE)
    second = drained(home, after=first)
    assert [trust.take_drains(first.encode()), trust.take_drains(first.encode())] == [True, False]
    assert trust.drained_until(ONE, ISSUED) == ISSUED + HOUR
    assert [trust.take_drains(second.encode()), trust.take_drains(first.encode())] == [True, False]
    assert (trust.drained_until(ONE, ISSUED), trust.drains) == (None, second)
    other = home.owner.drain(no_order(home), {}, now=ISSUED + SECOND)
    for orders in ((first, other), (other, first)):
        trust = NetworkTrust(home.owner.ca_der)
        for order in orders:
            trust.take_drains(order.encode())
        assert trust.drains == other


def highest(home: Network, owner: Any, **more: Any) -> bytes:
    """Return an order that no other of its key can replace."""
    return DrainOrder.sign(
        owner.private_key,
        home.owner.network_id,
        version=2**63 - 1,
        issued_at=ISSUED,
        peers={ONE: ISSUED + HOUR},
        **more,
    ).encode()


def test_newer_owners_key_replaces_any_version_of_an_older_one(home: Network) -> None:
    trust, high = NetworkTrust(home.owner.ca_der), highest(home, home.owner)
    assert trust.take_drains(high)
    later = home.owner.rotated(home.now).drain(no_order(home), {}, now=ISSUED)
    assert trust.take_drains(later.encode())
    assert not trust.take_drains(high)
    assert trust.drained_until(ONE, ISSUED) is None
    with pytest.raises(ProtocolViolation, match=r"^malformed: "):
        read_order(home, signed(home, DRAINS, fields_of(home, DRAINS, version=2**63)))


def test_order_by_a_retired_key_holds_no_more_and_is_refused(home: Network) -> None:
    trust = NetworkTrust(home.owner.ca_der)
    old = drained(home, ONE)
    newer = drained(home, ONE, after=old)
    assert trust.take_drains(old.encode())
    rotated = home.owner.rotated(home.now)
    assert trust.update(rotated.revoke(no_list(home), is_retiring=True, now=home.now))
    assert trust.drained_until(ONE, ISSUED) is None
    with pytest.raises(ProtocolViolation, match=r"^retired owner key: .* version 2"):
        trust.take_drains(newer.encode())


def test_order_by_a_forked_key_is_dropped_once_the_true_one_is_known(home: Network) -> None:
    """Whoever has the old key can make a key that calls itself the next one, and drain with it whom they like."""
    true, fork = home.owner.rotated(home.now), home.owner.rotated(home.now)
    trust = NetworkTrust(home.owner.ca_der)
    successors = fork.drain(no_order(home), {}, now=ISSUED).successors
    high = highest(home, fork, successors=successors)
    order = true.drain(no_order(home), {}, now=ISSUED)
    assert trust.take_drains(high)  # nobody can tell which is the true one yet
    assert not trust.take_drains(order.encode())
    assert trust.update(true.revoke(no_list(home), now=home.now))
    assert (trust.drained_until(ONE, ISSUED), trust.encoded_drains) == (None, b"")
    with pytest.raises(ProtocolViolation, match="another owner's key than ours"):
        trust.take_drains(high)
    assert trust.take_drains(order.encode())
    assert trust.drains == order


def test_orders_that_replace_nothing_are_read_once_and_few_are_remembered(
    home: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has seen an order can send it again: a large one takes 14 ms to read."""
    monkeypatch.setattr("capamesh.protocol.network.trust.MAX_OLD_DRAINS", 4)
    read: list[bytes] = []
    decode = DrainOrder.decode

    def counted(raw: bytes, authority: Authority) -> DrainOrder:
        read.append(raw)
        return decode(raw, authority)

    monkeypatch.setattr(DrainOrder, "decode", counted)
    trust, order, raws = NetworkTrust(home.owner.ca_der), no_order(home), list[bytes]()
    for number in range(20):
        order = home.owner.drain(order, {ONE: ISSUED + HOUR} if number % 2 else {}, now=ISSUED)
        raws.append(order.encode())
        assert trust.take_drains(raws[-1])
    assert not any(trust.take_drains(raw) for raw in raws[-2:] * 100)
    assert read == [*raws, *raws[-2:]]
    assert not any(trust.take_drains(raw) for raw in raws)
    assert len(trust._old_drains) == 4
    assert (trust.drains, trust.encoded_drains) == (order, raws[-1])
