"""The result of a check: a state, what was seen, and the line to run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of one thing that was looked at."""

    OK = "ok"
    WARN = "warn"
    """The thing works, or some of it does; there is something to know."""
    FAIL = "fail"
    """A member or a model will not work."""
    SKIP = "skip"
    """The thing was not looked at, for a reason that is told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    state: State
    seen: str
    run: str = ""
    """The one line to run; empty where nothing is to be done."""


def ok(check: str, seen: str) -> Finding:
    """Return a finding with which all is well."""
    return Finding(check, State.OK, seen)


def warn(check: str, seen: str, run: str = "") -> Finding:
    """Return a finding that one should know of."""
    return Finding(check, State.WARN, seen, run)


def fail(check: str, seen: str, run: str = "") -> Finding:
    """Return a finding with which a member or a model will not work."""
    return Finding(check, State.FAIL, seen, run)


def skip(check: str, reason: str) -> Finding:
    """Return the finding of a check that was not made."""
    return Finding(check, State.SKIP, reason)


def has_failed(findings: tuple[Finding, ...]) -> bool:
    """Return whether any check failed."""
    return any(finding.state is State.FAIL for finding in findings)
