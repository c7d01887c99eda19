from __future__ import annotations

from capamesh.router.balancing.opinions import Opinions


def test_clock_that_is_set_back_takes_no_opinion_away() -> None:
    opinions = Opinions()
    assert opinions.try_take(10.0)
    assert opinions.try_take(5.0)
    assert repr(opinions) == "Opinions(48.0 left)"
