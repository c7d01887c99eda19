"""Whom a worker's deaths are blamed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.crashes import DEATHS_IN_A_ROW, GOOD_LIFE_S, CrashRecord
from capamesh.node.running_page import Marked, Phase

ABORTED = "killed by signal 6 (Aborted)"
OLD, NEW = "sha256:" + "00" * 32, "sha256:" + "11" * 32


def running(name: str, digest: str = OLD) -> Marked:
    return Marked(name, "1", Phase.RUNNING, digest)


def loading(name: str, digest: str = OLD) -> Marked:
    return Marked(name, "1", Phase.LOADING, digest)


def deaths(record: CrashRecord, *marks: list[Marked], lived_s: float = 1.0) -> list[list[str]]:
    """Return who was quarantined at each death."""
    return [[one.name for one in record.died(marked, ABORTED, lived_s)] for marked in marks]


def reasons(record: CrashRecord) -> dict[str, str]:
    """Return why each is in quarantine, by "name/version"."""
    return {f"{one.name}/{one.version}": one.reason for one in record.quarantined}


def test_the_third_death_in_a_row_quarantines_with_the_reason_and_what_to_do() -> None:
    record = CrashRecord()
    assert deaths(record, [running("bad")], [running("bad")]) == [[], []]
    assert record.quarantined == ()
    assert deaths(record, [running("bad")]) == [["bad"]]
    assert reasons(record) == {
        "bad/1": "it ended its worker 3 times in a row (killed by signal 6 (Aborted), while running);"
        " replace its file or restart the node"
    }


def test_a_death_with_nothing_marked_blames_nobody_and_does_not_end_the_row() -> None:
    record = CrashRecord()
    assert deaths(record, [], [], [], []) == [[], [], [], []]
    assert deaths(record, [running("bad")], [], [running("bad")], []) == [[], [], [], []]
    assert deaths(record, [running("bad")]) == [["bad"]]


def test_a_model_marked_in_several_slots_is_blamed_once_a_death() -> None:
    record = CrashRecord()
    marks = [loading("bad"), running("bad"), running("bad")]
    assert deaths(record, marks, marks, marks) == [[], [], ["bad"]]
    assert "while loading" in reasons(record)["bad/1"]


def test_of_models_that_were_marked_together_only_the_one_with_the_most_blame_is_quarantined() -> (
    None
):
    record = CrashRecord()
    found = deaths(
        record,
        [running("bad"), running("good")],
        [running("bad")],
        [running("bad"), running("good")],
    )
    assert found == [[], [], ["bad"]]
    # and the others start from nothing
    assert deaths(record, [running("good")], [running("good")]) == [[], []]
    assert deaths(record, [running("good")]) == [["good"]]


def test_models_that_were_marked_together_in_every_death_are_quarantined_together_and_it_is_said() -> (
    None
):
    record = CrashRecord()
    marks = [running("a"), loading("b")]
    assert deaths(record, marks, marks, marks) == [[], [], ["a", "b"]]
    assert reasons(record)["a/1"].startswith("it, or b/1 beside it, ended its worker 3 times")
    assert reasons(record)["b/1"].startswith("it, or a/1 beside it, ended its worker 3 times")


def test_a_reason_names_a_few_companions() -> None:
    record = CrashRecord()
    marks = [running(name) for name in "abcdefgh"]
    deaths(record, marks, marks, marks)
    assert reasons(record)["a/1"].startswith("it, or b/1, c/1, d/1 … beside it, ended")


def test_two_bad_models_that_take_turns_are_both_found() -> None:
    record = CrashRecord()
    turns = [[running("a")], [running("b")]] * 2
    assert deaths(record, *turns, [running("a")]) == [[], [], [], [], ["a"]]
    assert deaths(record, *[[running("b")]] * 3) == [[], [], ["b"]]
    assert set(reasons(record)) == {"a/1", "b/1"}


@pytest.mark.parametrize(("lived_s", "found"), [(GOOD_LIFE_S - 1, ["bad"]), (GOOD_LIFE_S, [])])
def test_a_good_life_ends_the_row(lived_s: float, found: list[str]) -> None:
    record = CrashRecord()
    deaths(record, [running("bad")], [running("bad")])
    assert deaths(record, [running("bad")], lived_s=lived_s) == [found]


def test_a_good_life_does_not_end_a_quarantine() -> None:
    record = CrashRecord()
    deaths(record, *[[running("bad")]] * 3)
    deaths(record, [running("other")], lived_s=2 * GOOD_LIFE_S)
    assert set(reasons(record)) == {"bad/1"}


def test_other_files_are_not_to_blame_for_what_the_earlier_ones_did() -> None:
    record = CrashRecord()
    deaths(record, [running("bad", OLD)], [running("bad", OLD)])
    assert deaths(record, [running("bad", NEW)], [running("bad", NEW)]) == [[], []]
    assert not record.offered("bad", "1", OLD)
    assert deaths(record, *[[running("bad", OLD)]] * 3) == [[], [], ["bad"]]


def test_a_quarantine_ends_when_the_files_are_others() -> None:
    record = CrashRecord()
    deaths(record, *[[running("bad", OLD)]] * 3)
    assert not record.offered("bad", "1", "")
    assert not record.offered("bad", "1", OLD)
    assert not record.offered("bad", "2", NEW)
    assert set(reasons(record)) == {"bad/1"}
    assert record.offered("bad", "1", NEW)
    assert record.quarantined == ()
    assert not record.offered("bad", "1", NEW)


def test_a_digest_that_was_not_marked_is_the_next_one_offered() -> None:
    record = CrashRecord()
    deaths(record, [running("bad", "")])
    assert not record.offered("bad", "1", OLD)
    assert deaths(record, [running("bad", "")], [running("bad", "")]) == [[], ["bad"]]
    assert record.offered("bad", "1", NEW)
    deaths(record, *[[running("worse", "")]] * 3)
    assert not record.offered("worse", "1", OLD)
    assert record.offered("worse", "1", NEW)


def test_a_version_is_blamed_for_itself_alone() -> None:
    record = CrashRecord()
    marks = [[Marked("m", str(number), Phase.RUNNING)] for number in (1, 2, 1, 2)]
    assert deaths(record, *marks) == [[], [], [], []]


def test_a_quarantined_model_that_is_marked_all_the_same_is_not_quarantined_again() -> None:
    record = CrashRecord()
    deaths(record, *[[running("bad")]] * 3)
    assert deaths(record, *[[running("bad"), running("b")]] * 3) == [[], [], ["b"]]
    assert reasons(record)["b/1"].startswith("it ended")


@given(st.lists(st.sets(st.sampled_from("abc"), max_size=3), max_size=12))
def test_whoever_is_quarantined_was_marked_in_at_least_three_deaths(deaths: list[set[str]]) -> None:
    record = CrashRecord()
    seen: dict[str, int] = {}
    for marked in deaths:
        for name in marked:
            seen[name] = seen.get(name, 0) + 1
        found = record.died([running(name) for name in sorted(marked)], ABORTED, 1.0)
        assert all(one.name in marked and seen[one.name] >= DEATHS_IN_A_ROW for one in found)
