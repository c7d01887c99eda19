"""The files of the page: HTML, scripts and styles as they are shipped, by name and digest. IO: reads them once."""

from __future__ import annotations

import functools
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "static"
INDEX: Final = "index.html"
DOCS: Final = "docs.html"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""The content type of each kind of file; files of no such kind are not served."""
PLACE: Final = b"{{files}}"
"""Stands in `INDEX` and `DOCS` for the folder of the other files."""
_DIGEST_CHARS: Final = 16
_GZIP: Final = 31


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file of the page."""

    content: bytes
    packed: bytes
    """The content as gzip has it."""
    content_type: str


class StaticFiles:
    """All files of the page. Their digest is part of their paths, so that a browser may keep them for ever."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Read them; raise `OSError` when they cannot be read."""
        found = {
            path.name: path.read_bytes()
            for path in sorted(folder.iterdir())
            if path.suffix in TYPES and path.is_file()
        }
        hashed = hashlib.sha256()
        for name, content in found.items():
            hashed.update(f"{name} {len(content)}\n".encode())
            hashed.update(content)
        self.digest = hashed.hexdigest()[:_DIGEST_CHARS]
        """The digest of all files together: modules name one another by relative paths, so that all change at once."""
        place = f"page/{self.digest}".encode()
        self.index = found.pop(INDEX).replace(PLACE, place)
        """The page itself, which names the other files by their paths."""
        self.docs = found.pop(DOCS).replace(PLACE, place)
        """The page on the routes, which does so, too."""
        self._files = {
            name: StaticFile(content, packed(content), TYPES[Path(name).suffix])
            for name, content in found.items()
        }

    def file(self, digest: str, name: str) -> StaticFile | None:
        """Return a file by the digest and the name in its path; None if there is none."""
        return self._files.get(name) if digest == self.digest else None


@functools.cache
def packed(content: bytes) -> bytes:
    """Return the content as gzip has it: packed once, however many routers a process has."""
    packer = zlib.compressobj(9, wbits=_GZIP)
    return packer.compress(content) + packer.flush()
