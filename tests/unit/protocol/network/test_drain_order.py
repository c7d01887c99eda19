"""The owner's list of drained nodes: its bytes, its bounds, and when it holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError, ProtocolViolation
from capamesh.protocol.identity import peer_id_of
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import (
    MAX_ORDER_BYTES,
    DrainOrder,
    NetworkOwner,
    NetworkTrust,
    RevocationList,
)
from capamesh.protocol.network.authority import Authority, own_authority
from capamesh.protocol.network.drain_order import MAX_DRAINED

if TYPE_CHECKING:
    from .conftest import Network

AT = 1_800_000_000
ISSUED = datetime.fromtimestamp(AT, UTC)
HOUR = timedelta(hours=1)
ONE = peer_id_of(bytes(32))


def authority_of(home: Network) -> Authority:
    return own_authority(home.owner.ca_der)


def empty(home: Network) -> DrainOrder:
    return DrainOrder.empty(home.owner.network_id)


def signed(home: Network, fields: object) -> bytes:
    payload: bytes = fields if isinstance(fields, bytes) else msgpack.packb(fields)
    return home.owner.private_key.sign(b"capamesh-drain-1\0" + payload) + payload


def fields_of(home: Network, **others: object) -> dict[str, Any]:
    return {
        "v": 1,
        "net": home.owner.network_id,
        "version": 3,
        "at": AT,
        "peers": [[bytes(32), AT + 60], [b"\xff" * 32, AT + 3600]],
        **others,
    }


def test_bytes_are_a_signature_and_a_sorted_map(home: Network) -> None:
    raw = signed(home, fields_of(home))
    decoded = DrainOrder.decode(raw, authority_of(home))
    assert decoded == DrainOrder(
        network_id=home.owner.network_id,
        version=3,
        issued_at=ISSUED,
        peers={
            ONE: ISSUED + timedelta(seconds=60),
            peer_id_of(b"\xff" * 32): ISSUED + HOUR,
        },
        signature=raw[:64],
    )
    assert decoded.encode() == raw


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.binary(min_size=32, max_size=32).map(peer_id_of),
        st.integers(1, 30 * 86_400).map(lambda left_s: ISSUED + timedelta(seconds=left_s)),
        max_size=5,
    )
)
def test_every_order_comes_back_from_its_bytes(
    home: Network, peers: dict[PeerId, datetime]
) -> None:
    order = home.owner.drain(empty(home), peers, now=ISSUED)
    assert (order.version, dict(order.peers)) == (1, peers)
    assert DrainOrder.decode(order.encode(), authority_of(home)) == order


def test_largest_order_fits_and_one_more_node_does_not(home: Network) -> None:
    peers = {
        peer_id_of(number.to_bytes(32, "big")): ISSUED + timedelta(days=30)
        for number in range(MAX_DRAINED)
    }
    encoded = home.owner.drain(empty(home), peers, now=ISSUED).encode()
    assert len(encoded) < MAX_ORDER_BYTES - 8 * 1024  # room for eight successors' certificates
    assert len(DrainOrder.decode(encoded, authority_of(home)).peers) == MAX_DRAINED
    with pytest.raises(ConfigError, match="1025 nodes, at most 1024"):
        home.owner.drain(
            empty(home),
            {**peers, ONE: ISSUED + HOUR, peer_id_of(b"\xff" * 32): ISSUED + HOUR},
            now=ISSUED,
        )


@pytest.mark.parametrize("left", [timedelta(0), -HOUR, timedelta(days=30, seconds=1)])
def test_drain_that_is_over_or_too_long_is_not_signed(home: Network, left: timedelta) -> None:
    with pytest.raises(ConfigError, match="a drain ends within 30 days"):
        home.owner.drain(empty(home), {ONE: ISSUED + left}, now=ISSUED)


def test_drain_holds_from_its_signing_to_its_end(home: Network) -> None:
    order = home.owner.drain(empty(home), {ONE: ISSUED + HOUR}, now=ISSUED)
    assert order.until(ONE, ISSUED) == ISSUED + HOUR
    assert order.until(ONE, ISSUED + HOUR) == ISSUED + HOUR
    assert order.until(ONE, ISSUED + HOUR + timedelta(seconds=1)) is None
    assert order.until(home.node.identity.peer_id, ISSUED) is None
    # the clocks of the signer and of a member may differ by some minutes, not by a day
    assert order.until(ONE, ISSUED - timedelta(minutes=2)) == ISSUED + HOUR
    assert order.until(ONE, ISSUED - timedelta(days=1)) is None


def test_trust_takes_newer_orders_alone(home: Network) -> None:
    trust = NetworkTrust(home.owner.ca_der)
    assert trust.encoded_drains == b""
    first = home.owner.drain(empty(home), {ONE: ISSUED + HOUR}, now=ISSUED)
    second = home.owner.drain(first, {}, now=ISSUED)
    assert trust.take_drains(first.encode())
    assert trust.drained_until(ONE, ISSUED) == ISSUED + HOUR
    assert not trust.take_drains(first.encode())
    assert trust.take_drains(second.encode())
    assert trust.drained_until(ONE, ISSUED) is None
    assert not trust.take_drains(first.encode())
    assert trust.drains == second


def test_two_orders_of_one_version_settle_on_the_same_one(home: Network) -> None:
    one = home.owner.drain(empty(home), {ONE: ISSUED + HOUR}, now=ISSUED)
    other = home.owner.drain(empty(home), {}, now=ISSUED + timedelta(seconds=1))
    for orders in ((one, other), (other, one)):
        trust = NetworkTrust(home.owner.ca_der)
        for order in orders:
            trust.take_drains(order.encode())
        assert trust.drains == other


def rotated(home: Network) -> NetworkOwner:
    return home.owner.rotated(home.now)


def test_newer_owners_key_replaces_any_version_of_an_older_one(home: Network) -> None:
    trust = NetworkTrust(home.owner.ca_der)
    high = DrainOrder.sign(
        home.owner.private_key,
        home.owner.network_id,
        version=2**63 - 1,
        issued_at=ISSUED,
        peers={ONE: ISSUED + HOUR},
    )
    assert trust.take_drains(high.encode())
    later = rotated(home).drain(empty(home), {}, now=ISSUED)
    assert trust.take_drains(later.encode())
    assert not trust.take_drains(high.encode())
    assert trust.drained_until(ONE, ISSUED) is None


def test_order_by_a_retired_key_holds_no_more_and_is_refused(home: Network) -> None:
    trust = NetworkTrust(home.owner.ca_der)
    old = home.owner.drain(empty(home), {ONE: ISSUED + HOUR}, now=ISSUED)
    newer = home.owner.drain(old, {ONE: ISSUED + HOUR}, now=ISSUED)
    assert trust.take_drains(old.encode())
    retiring = rotated(home).revoke(
        RevocationList.empty(home.owner.network_id), is_retiring=True, now=home.now
    )
    assert trust.update(retiring)
    assert trust.drained_until(ONE, ISSUED) is None
    with pytest.raises(ProtocolViolation, match=r"^retired owner key: .* version 2"):
        trust.take_drains(newer.encode())


def test_order_by_a_forked_key_is_dropped_once_the_true_one_is_known(home: Network) -> None:
    """Whoever has the old key can make a key that calls itself the next one, and drain with it whom they like."""
    true, fork = rotated(home), rotated(home)
    trust = NetworkTrust(home.owner.ca_der)
    high = DrainOrder.sign(
        fork.private_key,
        home.owner.network_id,
        version=2**63 - 1,
        issued_at=ISSUED,
        peers={ONE: ISSUED + HOUR},
        successors=fork.drain(empty(home), {}, now=ISSUED).successors,
    ).encode()
    order = true.drain(empty(home), {}, now=ISSUED)
    assert trust.take_drains(high)  # nobody can tell which is the true one yet
    assert not trust.take_drains(order.encode())
    assert trust.update(true.revoke(RevocationList.empty(home.owner.network_id), now=home.now))
    assert (trust.drained_until(ONE, ISSUED), trust.encoded_drains) == (None, b"")
    with pytest.raises(ProtocolViolation, match="another owner's key than ours"):
        trust.take_drains(high)
    assert trust.take_drains(order.encode())
    assert trust.drains == order


@pytest.mark.parametrize(
    "others",
    [
        {"v": 2},
        *[{"version": version} for version in (0, 2**63, True, 1.0, "1")],
        {"net": "cm-other"},
        *[{"at": at} for at in (2**63, "now", AT + 0.5)],
        {"peers": [[bytes(32), AT]]},
        {"peers": [[bytes(32), AT + 30 * 86_400 + 1]]},
        {"peers": [[bytes(32), 2**62]]},
        {"peers": [[bytes(31), AT + 60]]},
        {"peers": [[bytes(32), AT + 60, 1]]},
        {"peers": [[bytes(32), AT + 60], [bytes(32), AT + 61]]},
        {"peers": [[b"\xff" * 32, AT + 60], [bytes(32), AT + 60]]},
        *[{"peers": peers} for peers in ([bytes(32)], {"a": AT + 60}, None)],
        {"peers": [[number.to_bytes(32, "big"), AT + 60] for number in range(1025)]},
        {"more": 1},
        b"",
        b"\x91" * 5000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\x80\x80",
    ],
)
def test_signed_order_of_another_form_is_malformed(
    home: Network, others: dict[str, Any] | bytes
) -> None:
    fields = others if isinstance(others, bytes) else fields_of(home, **others)
    with pytest.raises(ProtocolViolation, match=r"^malformed: "):
        DrainOrder.decode(signed(home, fields), authority_of(home))


def test_order_that_the_network_s_owner_did_not_sign_is_refused(
    home: Network, stranger: Network
) -> None:
    foreign = stranger.owner.drain(empty(stranger), {ONE: ISSUED + HOUR}, now=ISSUED).encode()
    honest = home.owner.drain(empty(home), {ONE: ISSUED + HOUR}, now=ISSUED).encode()
    payload = msgpack.packb(fields_of(home))
    other = home.owner.private_key.sign(b"capamesh-revocations-1\0" + payload) + payload
    strangers = (
        foreign,
        bytes(64) + honest[64:],
        honest[:-1],
        b"",
        bytes(10),
        honest + b"\0",
        other,
    )
    for raw in (*strangers, b"capamesh-drain-2\0" + honest):
        with pytest.raises(ProtocolViolation, match=r"^bad signature: |^malformed: "):
            DrainOrder.decode(raw, authority_of(home))
    with pytest.raises(ProtocolViolation, match=r"^oversize: "):
        DrainOrder.decode(bytes(MAX_ORDER_BYTES + 1), authority_of(home))


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
    trust, order, raws = NetworkTrust(home.owner.ca_der), empty(home), list[bytes]()
    for number in range(20):
        order = home.owner.drain(order, {ONE: ISSUED + HOUR} if number % 2 else {}, now=ISSUED)
        raws.append(order.encode())
        assert trust.take_drains(raws[-1])
    for _ in range(100):
        assert not trust.take_drains(raws[-1])
        assert not trust.take_drains(raws[-2])
    assert read == [*raws, raws[-1], raws[-2]]
    assert not any(trust.take_drains(raw) for raw in raws)
    assert len(trust._old_drains) == 4
    assert (trust.drains, trust.encoded_drains) == (order, raws[-1])
