"""What is said of a database that fails."""

from __future__ import annotations

import pytest
from sqlalchemy import exc
from sqlalchemy.exc import IntegrityError, SQLAlchemyError, StatementError

from capamesh.router.access.engines.reasons import reason_of


class FromServer(Exception):
    sqlstate = "23505"


class FromDriver(Exception):
    sqlstate = None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            IntegrityError(
                "INSERT secret", {"a": "secret"}, FromServer("it is there\nKey (secret)")
            ),
            "it is there",
        ),
        (
            IntegrityError("INSERT secret", {}, FromDriver("no host answers:\n  first\n  second")),
            "no host answers: first second",
        ),
        (StatementError("bad", "INSERT secret", {}, ValueError("a value")), "a value"),
        (exc.TimeoutError("waited for 30 s"), "waited for 30 s"),
        (IntegrityError("INSERT secret", {}, FromServer("")), "IntegrityError"),
        (IntegrityError("INSERT secret", {}, FromServer("x" * 600)), "x" * 500),
    ],
)
def test_reason_is_one_line_without_the_statement(error: SQLAlchemyError, reason: str) -> None:
    assert reason_of(error) == reason
