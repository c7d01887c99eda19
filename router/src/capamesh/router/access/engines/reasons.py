"""The reasons why a database fails, in words that have neither the statement nor the values in it. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import SQLAlchemyError, StatementError

MOST_CHARS: Final = 500


def reason_of(error: SQLAlchemyError) -> str:
    """Return why a statement failed, or why no connection was had, in one line."""
    origin = error.orig if isinstance(error, StatementError) and error.orig else error
    lines = str(origin).strip().splitlines()
    if getattr(origin, "sqlstate", None) is not None:  # behind the first line the server quotes
        lines = lines[:1]
    return " ".join(" ".join(lines).split())[:MOST_CHARS] or type(error).__name__
