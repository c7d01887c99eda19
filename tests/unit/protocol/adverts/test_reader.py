"""Reading the same again costs no check, and lets nothing else through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import advert
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import AdvertReader, Sequence, advert_to_body
from capamesh.protocol.adverts import reader as reader_module
from capamesh.protocol.errors import AdvertRejected
from capamesh.protocol.ids import PeerId

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


def test_unknown_field_that_cannot_be_packed_is_tolerated_as_any_other() -> None:
    body = {**BODY, "from_the_future": object()}
    reader = AdvertReader()
    for counter in (1, 2):
        assert reader.read(body, A, Sequence(1, counter)).models == SAID.models


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
