"""Who had which shard of a job, and when: a table beside the store's own, which the database itself fills at each change of a lease. IO: it.

What routers say of themselves is not asked: a trigger writes down each change of a shard's state and tokens in the change's own
transaction, with the time. So a takeover is known to the millisecond, and a commit by a token that did not hold could not hide.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

_COLUMNS = (
    "at_s DOUBLE PRECISION, job TEXT, seq INTEGER, was TEXT, became TEXT, first_was INTEGER, first_token INTEGER,"
    " second_was INTEGER, second_token INTEGER, owner TEXT, second_owner TEXT"
)
_VALUES = (
    "NEW.job, NEW.seq, OLD.state, NEW.state, OLD.first_token, NEW.first_token, OLD.second_token, NEW.second_token,"
    " NEW.owner, NEW.second_owner"
)
_CHANGED = (
    "OLD.state <> NEW.state OR OLD.token <> NEW.token OR OLD.first_token <> NEW.first_token"
    " OR OLD.second_token <> NEW.second_token"
)
_NAMES = "at_s, job, seq, was, became, first_was, first_token, second_was, second_token, owner, second_owner"
_INSERT = f"INSERT INTO lease_audit ({_NAMES})"
_SQLITE = (
    f"CREATE TABLE lease_audit (number INTEGER PRIMARY KEY, {_COLUMNS})",
    f"CREATE TRIGGER lease_audit AFTER UPDATE ON shard WHEN {_CHANGED} BEGIN"
    f" {_INSERT} VALUES (unixepoch('subsec'), {_VALUES}); END",
)
_POSTGRES = (
    f"CREATE TABLE lease_audit (number BIGSERIAL PRIMARY KEY, {_COLUMNS})",
    "CREATE FUNCTION lease_audit() RETURNS trigger AS $$ BEGIN"
    f" {_INSERT} VALUES (extract(epoch FROM clock_timestamp()), {_VALUES}); RETURN NULL; END"
    " $$ LANGUAGE plpgsql",
    f"CREATE TRIGGER lease_audit AFTER UPDATE ON shard FOR EACH ROW WHEN ({_CHANGED})"
    " EXECUTE FUNCTION lease_audit()",
)
_READ = f"SELECT {_NAMES} FROM lease_audit ORDER BY number"  # noqa: S608 - names of this module


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a shard. A token of 0 is none."""

    at_s: float
    job: str
    seq: int
    was: str
    became: str
    first_was: int
    first_token: int
    second_was: int
    second_token: int
    owner: str
    second_owner: str

    @property
    def holders(self) -> set[str]:
        """The routers that have the shard after it."""
        if self.became != "leased":
            return set()
        pairs = ((self.first_token, self.owner), (self.second_token, self.second_owner))
        return {owner for token, owner in pairs if token}

    @property
    def is_commit(self) -> bool:
        return self.became == "done" != self.was


def install(where: str) -> None:
    """Let the database of a store write the audit, which must have its tables by now."""
    _with(where, _POSTGRES if "://" in where else _SQLITE)


def changes(where: str) -> list[Change]:
    """Return all changes since `install`, in their order."""
    return [Change(*row) for row in _with(where, (_READ,))]


def begun(where: str, job: str) -> int:
    """Return how many rows of a job are in shards that have been leased."""
    rows = _with(where, ("SELECT job, sum(rows) FROM shard WHERE token > 0 GROUP BY job",))
    return dict(rows).get(job, 0)


def results(
    where: str, folder: Path, job: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the lines of all results and of all bad rows of a job, in order, as its manifests name them in its folder of parts.

    A part that is not what its manifest says is an error.
    """
    rows = _with(where, ("SELECT job, manifest FROM shard WHERE state = 'done' ORDER BY job, seq",))
    found: dict[str, list[dict[str, Any]]] = {"part": [], "bad_part": []}
    for manifest in (json.loads(text) for name, text in rows if name == job):
        for kind in found:
            part = manifest.get(kind)
            if part is None:
                continue
            data = (folder / job / part["name"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                raise ValueError(f"{part['name']} is not what its manifest says")
            found[kind] += map(json.loads, data.splitlines())
    return found["part"], found["bad_part"]


def _with(where: str, statements: Sequence[str]) -> list[tuple]:
    rows: list[tuple] = []
    if "://" in where:
        with psycopg.connect(where, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[arg-type]
                rows = cursor.fetchall() if cursor.description else []
        return rows
    with closing(sqlite3.connect(Path(where), timeout=60, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


@dataclass(frozen=True, slots=True)
class TakeOver:
    """A shard of which all routers that had it were gone, and who had it next."""

    job: str
    seq: int
    gone_s: float
    """When the last of them went."""
    taken_s: float
    """When the next had it, or it was done."""


def take_overs(
    found: Sequence[Change], is_owned: Callable[[str], bool], gone_s: float
) -> list[TakeOver]:
    """Return the shards that only the routers of which `is_owned` says so had when these went, and what came of each.

    A shard that nobody ever took is left out: its job has ended otherwise.
    """
    held: dict[tuple[str, int], set[str]] = defaultdict(set)
    waiting: dict[tuple[str, int], None] = {}
    taken: list[TakeOver] = []
    is_before = True
    for change in found:
        if is_before and change.at_s > gone_s:
            is_before = False
            waiting = {
                key: None for key, owners in held.items() if owners and all(map(is_owned, owners))
            }
        key = change.job, change.seq
        if is_before:
            held[key] = change.holders
        elif key in waiting and (change.is_commit or not all(map(is_owned, change.holders))):
            del waiting[key]
            taken.append(TakeOver(*key, gone_s, change.at_s))
    return taken


def late_commits(found: Sequence[Change]) -> list[Change]:
    """Return the commits by a token that did not hold: a router's that lost its lease before. There must be none."""
    return [
        change
        for change in found
        if change.is_commit
        and change.first_token not in {change.first_was, change.second_was} - {0}
    ]
