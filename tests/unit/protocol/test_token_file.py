"""A join token's file that is watched."""

from __future__ import annotations

from pathlib import Path

from capamesh.protocol.token_file import TokenFile


def write(path: Path, text: str) -> None:
    """As an owner does: whole, by another file in its place."""
    other = path.with_name("new")
    other.write_text(text)
    other.replace(path)


def test_new_token_is_reported_until_it_is_settled_and_the_old_one_never(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("capamesh1old\n")
    file = TokenFile(path, "capamesh1old")
    assert file.new_token() == ""
    write(path, "capamesh1new\n")
    assert file.new_token() == "capamesh1new"
    assert file.new_token() == "capamesh1new"
    file.settled()
    assert file.new_token() == ""
    write(path, "capamesh1new\n\n")
    assert file.new_token() == ""
    write(path, "capamesh1old")
    assert file.new_token() == "capamesh1old"


def test_file_that_is_gone_or_too_large_is_looked_at_again_later(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a")
    file = TokenFile(path, "a")
    path.unlink()
    assert file.new_token() == ""
    path.write_bytes(b"x" * 100_000)
    assert file.new_token() == ""
    write(path, "b")
    assert file.new_token() == "b"
