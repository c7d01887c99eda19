"""Watches the file that a member's join token came from, for a new one. IO: looks at one file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import read_public

POLL_S: Final = 5.0
"""Seconds between two looks (guess: an owner who has put a new token there waits for it to be taken)."""


class TokenFile:
    """Tells of each new token in a file until it is taken or refused for good."""

    def __init__(self, path: Path, text: str) -> None:
        """Watch `path`, which held `text`."""
        self._path = path
        self._text = text.strip()
        self._seen: tuple[int, int, int] | None = None
        self._pending = ""

    @override
    def __repr__(self) -> str:
        return f"TokenFile({self._path})"

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._path

    def new_token(self) -> str:
        """Return a token that was not taken yet; empty: there is none, or the file cannot be read now."""
        with suppress(OSError, ConfigError):
            status = self._path.stat()
            mark = (status.st_mtime_ns, status.st_size, status.st_ino)
            if mark != self._seen:
                text = read_public(self._path, "the join token").decode("ascii", "replace").strip()
                self._seen = mark
                self._pending = "" if text == self._text else text
        return self._pending

    def settled(self) -> None:
        """The token that was told last is taken, or it never can be: do not tell of it again."""
        if self._pending:
            self._text, self._pending = self._pending, ""


def token_file_of(path: Path | None, text: str | None) -> TokenFile | None:
    """Return the watch over `path`, from which `text` came; None where there is no such file."""
    return None if path is None else TokenFile(path, text or "")
