"""What bounds and orders adverts: their addresses, their interval, their sequence, and what is read once."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import advert
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import (
    AdvertReader,
    FleetSize,
    Sequence,
    SequenceSource,
    advert_interval_s,
    advert_to_body,
    boot_ns_after,
    is_acceptable,
    parse_address,
)
from capamesh.protocol.adverts import reader as reader_module
from capamesh.protocol.errors import AdvertRejected
from capamesh.protocol.ids import PeerId


@given(st.text(max_size=40))
def test_junk_is_an_address_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        host, port = parse_address(text)
        assert host
        assert 1 <= port <= 65_535


def test_text_that_is_no_address_is_refused_with_why() -> None:
    ports = ["host:0", "host:65536", "host:٨٠", "host:80\n"]
    for text in (
        "",
        "host",
        *ports,
        "2001:db8::1:443",
        "[fe80::1%eth0]:80",
        "[host]:80",
        "-host:80",
    ):
        with pytest.raises(ValueError, match=r"host|port|address|interface|limit"):
            parse_address(text)


def test_fleet_says_ten_adverts_a_second_between_10_and_120_s() -> None:
    seconds = {1: 10, 100: 10, 101: 11, 1_200: 120, 2**63 - 1: 120}
    assert {nodes: advert_interval_s(nodes) for nodes in seconds} == seconds


@given(st.lists(st.tuples(st.floats(0, 400), st.integers(0, 2_000)), min_size=1, max_size=30))
def test_number_counts_for_five_minutes_at_least_and_for_ten_at_most(
    words: list[tuple[float, int]],
) -> None:
    reported, now_s, said = FleetSize(), 0.0, list[tuple[float, int]]()
    for wait_s, nodes in words:
        now_s += wait_s
        must = max((n for at_s, n in said if now_s - at_s < 300), default=0)
        may = max((n for at_s, n in said if now_s - at_s <= 600.001), default=0)
        assert must <= reported.at(now_s) <= may
        reported.reported(nodes, now_s)
        said.append((now_s, nodes))
        assert reported.at(now_s) >= nodes


MINUTE_NS = 60 * 10**9
NOW_NS = 1_790_000_000 * 10**9


def test_sequence_is_acceptable_only_if_newer() -> None:
    assert is_acceptable(None, Sequence(0, 0))
    newer = {
        Sequence(5, 1): False,
        Sequence(5, 2): True,
        Sequence(6, 0): True,
        Sequence(4, 9): False,
    }
    assert {each: is_acceptable(Sequence(5, 1), each) for each in newer} == newer
    source = SequenceSource(boot_ns=7)
    assert [source.next(), source.next()] == [Sequence(7, 1), Sequence(7, 2)]


def test_boot_exceeds_the_last_one_unless_no_receiver_can_have_accepted_it() -> None:
    for last_ns, expected_ns in (
        (None, NOW_NS),
        (NOW_NS - 1, NOW_NS),
        (NOW_NS, NOW_NS + 1),
        (NOW_NS + 9 * MINUTE_NS, NOW_NS + 9 * MINUTE_NS + 1),
        (NOW_NS + 10 * MINUTE_NS, NOW_NS + 10 * MINUTE_NS + 1),
        (NOW_NS + 10 * MINUTE_NS + 1, NOW_NS),
    ):
        assert boot_ns_after(NOW_NS, last_ns) == expected_ns


@given(st.lists(st.integers(0, 10 * MINUTE_NS), min_size=1))
def test_restarts_under_a_clock_that_jumps_by_minutes_never_go_backwards(jumps: list[int]) -> None:
    last_ns = None
    for jump_ns in jumps:
        boot_ns = boot_ns_after(NOW_NS + jump_ns, last_ns)
        if last_ns is not None and last_ns <= NOW_NS + jump_ns + 10 * MINUTE_NS:
            assert boot_ns > last_ns
        last_ns = boot_ns


A, B, C = PeerId("A"), PeerId("B"), PeerId("C")
SAID = advert("A", "a:1")
BODY = advert_to_body(SAID)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[PeerId]:
    """Return the peers whose bodies are checked, as they are."""
    peers: list[PeerId] = []
    check = reader_module.advert_from_body

    def counting(body: Any, peer: PeerId, sequence: Sequence) -> Any:
        peers.append(peer)
        return check(body, peer, sequence)

    monkeypatch.setattr(reader_module, "advert_from_body", counting)
    return peers


def test_same_body_is_checked_once_and_read_with_its_new_sequence(
    checked: list[PeerId],
) -> None:
    reader = AdvertReader()
    first = reader.read(BODY, A, Sequence(1, 1))
    second = reader.read(dict(BODY), A, Sequence(1, 2))
    assert first == SAID
    assert second == replace(SAID, sequence=Sequence(1, 2))
    assert second.models is first.models
    assert checked == [A]


@pytest.mark.parametrize(("key", "value"), [("draining", 0), ("price_per_million", True)])
def test_values_that_python_takes_for_equal_are_not_the_same(key: str, value: object) -> None:
    reader = AdvertReader()
    body = {**BODY, "price_per_million": 1}
    reader.read(body, A, Sequence(1, 1))
    assert {**body, key: value} == body
    with pytest.raises(AdvertRejected):
        reader.read({**body, key: value}, A, Sequence(1, 2))
    assert reader.read(body, A, Sequence(1, 3)).price_per_million == 1.0


def test_reader_forgets_who_left_and_who_was_silent_longest(checked: list[PeerId]) -> None:
    reader = AdvertReader(max_peers=2)
    for counter, peer in enumerate((A, B, A, C), 1):
        reader.read(BODY, peer, Sequence(1, counter))
    assert repr(reader) == "AdvertReader(2 peers)"
    assert checked == [A, B, C]
    reader.read(BODY, B, Sequence(1, 5))
    reader.forget(B)
    reader.forget(B)
    reader.read(BODY, B, Sequence(1, 6))
    assert checked == [A, B, C, B, B]


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["eu", "us"]))))
def test_reader_reads_what_one_without_memory_reads(words: list[tuple[PeerId, str]]) -> None:
    reader = AdvertReader(max_peers=1)
    for counter, (peer, region) in enumerate(words):
        said = replace(SAID, peer=peer, region=region, sequence=Sequence(1, counter))
        assert reader.read(advert_to_body(said), peer, said.sequence) == said
