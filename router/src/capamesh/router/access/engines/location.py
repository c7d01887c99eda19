"""The place of a database: a file of SQLite, or a database of PostgreSQL. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from typing_extensions import override

from capamesh.protocol.errors import ConfigError

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/", re.ASCII)
_POSTGRES: Final = frozenset({"postgresql", "postgres"})


@dataclass(frozen=True, slots=True)
class DatabaseLocation:
    """The place of a database that routers share. As a text it is fit for logs: it says neither user nor password."""

    file: Path | None = None
    """The file of SQLite; None: it is a database of PostgreSQL."""
    url: str = field(default="", repr=False)
    """The URL of the database, as libpq reads it; it may have a password."""

    @classmethod
    def of(cls, text: str, kept: str) -> DatabaseLocation:
        """Return the place that a text names.

        `kept` is what is there, as messages call it, such as "keys".

        Raises:
            ConfigError: it is a URL of something else; the text says no more of it than its scheme.
        """
        scheme = _SCHEME.match(text)
        if scheme is None:
            return cls(Path(text))
        if scheme[1] not in _POSTGRES:
            raise ConfigError(
                f"the place of the {kept} begins with {scheme[1][:20]}:/; expected a file, or postgresql://USER@HOST/DATABASE"
            )
        return cls(url=text)

    @override
    def __str__(self) -> str:
        if self.file is not None:
            return str(self.file)
        try:
            parts = urlsplit(self.url)
        except ValueError:
            return "the database"
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # of a password that is not quoted
            return "the database"
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
