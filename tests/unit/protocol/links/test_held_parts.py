from __future__ import annotations

from capamesh.protocol.links.held_parts import PART_BYTES, HeldParts


def test_answer_s_parts_are_held_up_to_its_bound_and_one_more_is_refused() -> None:
    parts = HeldParts(10 * PART_BYTES, 100 * PART_BYTES)
    assert [parts.take(1, PART_BYTES) for _ in range(5)] == [""] * 5
    assert parts.take(1, 0) == (
        "5632 bytes of an answer in parts are not released; at most 5120 may be"
    )
    assert parts.take(2, 0) == ""  # another answer has its own room


def test_parts_without_data_are_bounded_too() -> None:
    parts = HeldParts(3 * PART_BYTES, 100 * PART_BYTES)
    assert [bool(parts.take(1, 0)) for _ in range(5)] == [False, False, False, True, True]


def test_all_answers_together_are_bounded() -> None:
    parts = HeldParts(3 * PART_BYTES, 4 * PART_BYTES)
    assert [parts.take(stream, 0) for stream in (1, 1, 2, 3)] == [""] * 4
    assert parts.take(4, 0) == (
        "2560 bytes of all answers in parts are not released; at most 2048 may be"
    )
    parts.end(1)
    assert [parts.take(4, 0), parts.take(4, 0)] == ["", ""]


def test_released_parts_make_room_and_an_ended_request_leaves_nothing() -> None:
    parts = HeldParts(3 * PART_BYTES, 100 * PART_BYTES)
    for _ in range(100):
        assert parts.take(1, PART_BYTES) == ""
        parts.release(1, PART_BYTES)
    assert parts.size_bytes == 0
    assert parts.take(1, 5) == ""
    parts.end(1)
    assert (parts.size_bytes, bool(parts)) == (0, False)
    parts.release(1, 5)  # a reader that comes late
    parts.end(1)
    assert parts.size_bytes == 0


def test_releasing_more_than_is_held_does_not_make_room_for_others() -> None:
    parts = HeldParts(10 * PART_BYTES, 10 * PART_BYTES)
    parts.take(1, 0)
    parts.take(2, 0)
    parts.release(1, 10**9)
    assert parts.size_bytes == PART_BYTES
