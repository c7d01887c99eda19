from __future__ import annotations

import pytest

from capamesh.router.balancing import opinions as module
from capamesh.router.balancing.opinions import MOST, Opinions


def taken(opinions: Opinions, now_s: float) -> int:
    """Try to take more than there may be; return how many were taken."""
    return sum(opinions.try_take(now_s) for _ in range(100))


def test_opinions_are_there_from_the_first_and_regained_one_a_second() -> None:
    opinions = Opinions()
    assert taken(opinions, 10.0) == MOST
    assert taken(opinions, 10.75) == 0
    assert taken(opinions, 11.0) == 1
    assert taken(opinions, 1000.0) == MOST


def test_opinion_is_regained_each_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REGAINED_EACH_S", 2.0)
    opinions = Opinions()
    taken(opinions, 10.0)
    assert taken(opinions, 14.0) == 2


def test_clock_that_is_set_back_takes_no_opinion_away() -> None:
    opinions = Opinions()
    assert opinions.try_take(10.0)
    assert opinions.try_take(5.0)
    assert repr(opinions) == "Opinions(48.0 left)"


def test_opinion_that_is_given_back_is_one_and_never_more_than_there_were() -> None:
    opinions = Opinions()
    taken(opinions, 10.0)
    opinions.give_back()
    assert repr(opinions) == "Opinions(1.0 left)"
    full = Opinions()
    full.give_back()
    assert repr(full) == "Opinions(50.0 left)"
