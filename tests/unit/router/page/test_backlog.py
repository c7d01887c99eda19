from __future__ import annotations

from capamesh.router.page.backlog import PIECE_BYTES, Backlog, Reader


def read_all(reader: Reader) -> list[bytes]:
    """Return the pieces that a reader gets until there is none, which it must be told."""
    pieces: list[bytes] = []
    while piece := reader.read():
        pieces.append(piece)
    assert piece == b""
    return pieces


def test_reader_gets_each_frame_after_its_own_once() -> None:
    backlog = Backlog()
    backlog.add(b"one")
    reader = Reader(backlog, 1)
    assert reader.read() == b""
    backlog.add(b"two")
    backlog.add(b"three")
    assert read_all(reader) == [b"two", b"three"]
    assert reader.number == 3
    assert read_all(Reader(backlog, 0)) == [b"one", b"two", b"three"]
    assert repr(reader) == "Reader(has 3 of 3)"
    assert repr(backlog) == "Backlog(3 frames, 11 bytes)"


def test_long_frame_is_read_in_pieces() -> None:
    backlog = Backlog()
    reader = Reader(backlog, 0)
    backlog.add(b"x" * PIECE_BYTES + b"y")
    assert reader.read() == b"x" * PIECE_BYTES
    assert reader.is_inside
    assert reader.number == 0
    assert reader.read() == b"y"
    assert not reader.is_inside
    assert reader.number == 1


def test_bytes_of_all_frames_are_bounded_however_large_each_is() -> None:
    backlog = Backlog(most_bytes=100)
    for size in (40, 60, 41, 100, 101, 1000):
        backlog.add(b"x" * size)
        assert backlog.kept_bytes <= 100
    assert backlog.kept_bytes == 0
    assert Reader(backlog, 5).read() is None
    backlog.add(b"small")
    assert read_all(Reader(backlog, 6)) == [b"small"]


def test_skipped_frame_sends_every_reader_back_to_the_beginning() -> None:
    backlog = Backlog()
    backlog.add(b"one")
    reader = Reader(backlog, 0)
    assert backlog.keeps_newest()
    backlog.skip()
    assert not backlog.keeps_newest()
    assert reader.read() is None
    assert read_all(Reader(backlog, 2)) == []
