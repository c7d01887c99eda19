from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from capamesh.node.devices.in_flight_journal import NO_SLOT, InFlightJournal, Phase
from capamesh.node.devices.in_flight_page import SLOTS, InFlightPage, Marked


@pytest.fixture
def page(tmp_path: Path) -> InFlightPage:
    return InFlightPage.create(tmp_path / "page")


def test_run_is_marked_from_its_beginning_to_its_end(page: InFlightPage) -> None:
    marks = InFlightJournal(page)
    m, n = marks.number("m", "1", "sha256-chunks:a"), marks.number("n", "22", "")
    assert m != n
    loading = marks.begin(n, Phase.LOADING)
    first, second = marks.begin(m, Phase.RUNNING), marks.begin(m, Phase.RUNNING)
    assert sorted(page.marked(), key=repr) == sorted(
        [
            Marked("n", "22", Phase.LOADING),
            Marked("m", "1", Phase.RUNNING, "sha256-chunks:a"),
            Marked("m", "1", Phase.RUNNING, "sha256-chunks:a"),
        ],
        key=repr,
    )
    marks.end(loading)
    marks.end(first)
    assert page.marked() == [Marked("m", "1", Phase.RUNNING, "sha256-chunks:a")]
    marks.end(second)
    assert page.marked() == []


def test_model_that_is_not_loaded_any_more_is_forgotten(page: InFlightPage) -> None:
    marks = InFlightJournal(page)
    kept = marks.number("n", "1", "")
    for digest in "abc":
        number = marks.number("m", "1", digest)
        assert marks.number("m", "1", digest) == number
        marks.release(number)
        marks.end(marks.begin(number, Phase.RUNNING))  # another still has it
        marks.release(number)
    assert set(page._records) == {kept}
    assert (len(marks._known), len(marks._users)) == (1, 1)
    assert marks.number("m", "1", "a") not in {kept, number}


def test_marks_at_the_loss_of_the_device_stay(page: InFlightPage) -> None:
    marks = InFlightJournal(page)
    m, n = marks.number("m", "1", "sha256-chunks:a"), marks.number("n", "1", "")
    ended, running = marks.begin(n, Phase.RUNNING), marks.begin(m, Phase.RUNNING)
    marks.end(ended)
    marks.settle()
    marks.end(running)
    assert marks.begin(n, Phase.RUNNING) == NO_SLOT
    marks.blame(n, Phase.LOADING)  # whatever takes too long now waits for the device
    assert page.marked() == [Marked("m", "1", Phase.RUNNING, "sha256-chunks:a")]


@pytest.mark.parametrize("running", [3, SLOTS])
def test_model_that_ends_the_process_is_alone_marked_for_good(
    page: InFlightPage, running: int
) -> None:
    marks = InFlightJournal(page)
    others, bad = marks.number("m", "1", ""), marks.number("bad", "1", "sha256-chunks:a")
    slots = [marks.begin(others, Phase.RUNNING) for _ in range(running)]
    loading = marks.begin(bad, Phase.LOADING)
    marks.blame(bad, Phase.LOADING)
    for slot in (*slots, loading):
        marks.end(slot)
    assert marks.begin(others, Phase.RUNNING) == NO_SLOT
    marks.blame(others, Phase.RUNNING)  # the first is what everything waits for
    assert page.marked() == [Marked("bad", "1", Phase.LOADING, "sha256-chunks:a")]


def test_run_that_begins_while_another_is_convicted_is_not_marked(
    page: InFlightPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = InFlightJournal(page)
    other, bad = marks.number("m", "1", ""), marks.number("bad", "1", "")
    begin = page.begin

    def begin_late(slot: int, number: int, phase: Phase) -> None:
        monkeypatch.setattr(page, "begin", begin)
        marks.blame(bad, Phase.RUNNING)
        begin(slot, number, phase)

    monkeypatch.setattr(page, "begin", begin_late)
    marks.begin(other, Phase.RUNNING)
    assert page.marked() == [Marked("bad", "1", Phase.RUNNING)]


def test_run_without_a_slot_goes_on_without_a_mark(page: InFlightPage) -> None:
    marks = InFlightJournal(page)
    number = marks.number("m", "1", "")
    slots = [marks.begin(number, Phase.RUNNING) for _ in range(SLOTS)]
    assert sorted(slots) == list(range(SLOTS))
    assert marks.begin(number, Phase.RUNNING) == NO_SLOT
    marks.end(NO_SLOT)
    assert len(page.marked()) == SLOTS
    marks.end(slots[3])
    assert marks.begin(number, Phase.RUNNING) == slots[3]
    for slot in slots:
        marks.end(slot)
    assert page.marked() == []


def test_threads_never_share_a_slot(page: InFlightPage) -> None:
    marks = InFlightJournal(page)
    number = marks.number("m", "1", "")
    in_use: set[int] = set()

    def mark(_: int) -> None:
        slot = marks.begin(number, Phase.RUNNING)
        assert slot not in in_use
        in_use.add(slot)
        in_use.remove(slot)
        marks.end(slot)

    with ThreadPoolExecutor(8) as pool:
        for outcome in pool.map(mark, range(2_000)):
            assert outcome is None
    assert page.marked() == []
    assert len(marks._free) == SLOTS
