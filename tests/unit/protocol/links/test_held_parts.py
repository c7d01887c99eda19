from __future__ import annotations

from capamesh.protocol.links.held_parts import PART_BYTES, HeldParts


def test_all_answers_together_are_bounded() -> None:
    parts = HeldParts(3 * PART_BYTES, 4 * PART_BYTES)
    assert [parts.take(stream, 0) for stream in (1, 1, 2, 3)] == [""] * 4
    assert parts.take(4, 0) == (
        "2560 bytes of all answers in parts are not released; at most 2048 may be"
    )
    parts.end(1)
    assert [parts.take(4, 0), parts.take(4, 0)] == ["", ""]


def test_part_that_is_released_and_of_which_the_peer_was_not_told_counts_against_it() -> None:
    parts = HeldParts(16 * PART_BYTES, 100 * PART_BYTES)
    for _ in range(13):
        assert parts.take(1, 0) == ""
    assert [parts.release(1, 0) for _ in range(3)] == [0, 0, 0]
    assert [parts.take(1, 0) for _ in range(3)] == [""] * 3
    assert parts.take(1, 0) != ""  # the peer cannot know of the three
    assert parts.release(1, 0) == 4 * PART_BYTES
    assert [parts.take(1, 0) for _ in range(4)] == [""] * 4
    assert parts.take(1, 0) != ""
