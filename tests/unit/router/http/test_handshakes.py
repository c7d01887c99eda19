"""The bounds of TLS handshakes under way: who may begin, who has to wait, and who is given up."""

from __future__ import annotations

import pytest
from typing_extensions import override

from capamesh.router.http.handshakes import (
    A_SECOND,
    AT_ONCE,
    DAWDLES_AFTER_S,
    Handshake,
    Handshakes,
)


class Begun(Handshake):
    def __init__(self, site: str, begun_s: float) -> None:
        self.site = site
        self.begun_s = begun_s
        self.is_given_up = False

    @override
    def give_up(self) -> None:
        self.is_given_up = True


def none_trusted(_: str) -> bool:
    return False


def begin(handshakes: Handshakes, site: str, now_s: float) -> Begun | None:
    begun = Begun(site, now_s)
    return begun if handshakes.has_room(now_s) and handshakes.begin(begun, now_s) else None


def test_handshake_waits_while_all_places_are_taken_by_those_that_do_not_dawdle() -> None:
    handshakes = Handshakes(none_trusted, most=3, most_of_site=3)
    begun = [begin(handshakes, site, 0.0) for site in ("a", "b", "b")]
    assert not handshakes.has_room(0.9)
    assert handshakes.has_room(DAWDLES_AFTER_S)
    assert [each is not None and each.is_given_up for each in begun] == [False, True, False]


def test_one_that_has_ended_makes_room_once() -> None:
    handshakes = Handshakes(none_trusted, most=1)
    begun = begin(handshakes, "a", 0.0)
    assert begun is not None
    assert begin(handshakes, "a", 0.0) is None
    handshakes.ended(begun)
    handshakes.ended(begun)
    assert len(handshakes) == 0
    assert begin(handshakes, "a", 0.0) is not None
    assert not begun.is_given_up


def test_site_begins_at_a_rate_that_time_gives_back() -> None:
    handshakes = Handshakes(none_trusted, most=10_000, most_of_site=10_000)
    taken = [begin(handshakes, "a", 0.0) for _ in range(int(AT_ONCE) + 5)]
    assert [each is None for each in taken] == [False] * int(AT_ONCE) + [True] * 5
    assert begin(handshakes, "b", 0.0) is not None
    a_while_s = 3 / A_SECOND
    later = [begin(handshakes, "a", a_while_s) for _ in range(5)]
    assert [each is None for each in later] == [False] * 3 + [True] * 2


def test_trusted_site_has_neither_a_share_nor_a_rate() -> None:
    handshakes = Handshakes(lambda site: site == "proxy", most=1000, most_of_site=1)
    assert all(begin(handshakes, "proxy", 0.0) for _ in range(1000))
    assert not handshakes.has_room(0.0)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_all_are_given_up_at_the_end(count: int) -> None:
    handshakes = Handshakes(none_trusted)
    begun = [begin(handshakes, "a", 0.0) for _ in range(count)]
    handshakes.give_up_all()
    assert all(each is not None and each.is_given_up for each in begun)
    assert len(handshakes) == 0
