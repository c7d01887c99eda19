from __future__ import annotations

import json

from capamesh.protocol.ids import ModelName
from capamesh.router.page.history import BIN_S, History, Totals
from capamesh.router.page.history_answers import HistoryAnswers


class Counters:
    """A history of some models, each with requests, that is sampled by hand."""

    def __init__(self, *models: str, most_bytes: int = 2**20) -> None:
        self.now_s = 0.0
        self.latencies = {ModelName(model): [0, 0] for model in models}
        self.history = History(
            lambda: Totals(self.latencies, {}, 0, 1, 1), bounds_s=(0.001,), clock=lambda: self.now_s
        )
        self.answers = HistoryAnswers(self.history, most_bytes=most_bytes)
        self.pass_bin()

    def pass_bin(self) -> None:
        self.now_s += BIN_S
        for counts in self.latencies.values():
            counts[0] += 10
        self.history.sample()


def test_answer_is_made_once_until_the_history_goes_on() -> None:
    counters = Counters("m")
    first = counters.answers.answer("m", 20)
    assert counters.answers.answer("m", 20) is first
    assert counters.answers.answer("m", 24.9) is first, "it is of the same bins"
    assert counters.answers.made == 1
    counters.pass_bin()
    newer = counters.answers.answer("m", 20)
    assert newer.tag != first.tag
    assert counters.answers.made == 2
    assert counters.answers.kept_bytes == len(newer.plain) + len(newer.packed)


def test_invented_models_are_answered_and_push_nothing_out() -> None:
    counters = Counters("m")
    counters.answers.answer("m", 20)
    kept_bytes = counters.answers.kept_bytes
    for at in range(100):
        answer = counters.answers.answer(f"invented-{at}", 20)
        assert json.loads(answer.plain)["series"]["requests_per_s"] == [None, None]
    assert counters.answers.kept_bytes == kept_bytes
    counters.answers.answer("m", 20)
    assert counters.answers.made == 101


def test_bytes_that_are_kept_are_bounded_and_the_longest_unasked_goes_first() -> None:
    counters = Counters("m", most_bytes=2**30)
    for bins in (1, 2, 3):
        counters.answers.answer("m", bins * BIN_S)
    most_bytes = counters.answers.kept_bytes
    counters = Counters("m", most_bytes=most_bytes)
    for bins in (1, 2, 3, 1, 4):  # those of 2 make room
        counters.answers.answer("m", bins * BIN_S)
        assert counters.answers.kept_bytes <= most_bytes
    assert counters.answers.made == 4
    counters.answers.answer("m", BIN_S)
    assert counters.answers.made == 4
    counters.answers.answer("m", 2 * BIN_S)
    assert counters.answers.made == 5
