"""The file that a router's keys are kept in: SQLite. IO: that file, and chance for new keys.

Routers of one machine may share the file, and commands write it while they run: a stamp in it is another one after each
change, so that a router that looks once a second reads all keys only when they are others.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import make_folder
from capamesh.protocol.schema import Mismatch, plain_values, read
from capamesh.router.access.keys import Key, Scope, digest_of, id_of, new_text
from capamesh.router.access.quotas import Amount, Usage, UsageRow

MAX_KEYS: Final = 10_000
"""The most keys of one file, those included that have ended (guess: some 10 MB in each process of a router)."""
BUSY_S: Final = 2.0
"""Seconds for which another process's change is waited for (guess: one takes milliseconds)."""
KEPT_HOURS: Final = 400 * 24
"""The hours for which usage is kept: a year, and the time to look at its last month."""
STAMP_BITS: Final = 60
"""The bits of a file's first stamp, which is drawn: a file that was made anew is not taken for the one before."""
_FORMAT: Final = 1
_MAKE: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    tenant TEXT NOT NULL,
    scope TEXT NOT NULL,
    created_s REAL NOT NULL,
    expires_s REAL,
    revoked_s REAL
);
CREATE TABLE IF NOT EXISTS usage (
    hour INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, tenant, model)
);
CREATE TABLE IF NOT EXISTS months (
    month TEXT NOT NULL,
    id TEXT NOT NULL,
    requests INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (month, id)
);
CREATE TABLE IF NOT EXISTS changes (stamp INTEGER NOT NULL);
INSERT INTO changes (stamp) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM changes);
PRAGMA user_version = 1;
COMMIT;
"""
_ADD_USAGE: Final = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (hour, tenant, model) DO UPDATE
SET requests = requests + excluded.requests, rows = rows + excluded.rows, bytes = bytes + excluded.bytes
"""
_ADD_MONTH: Final = """
INSERT INTO months VALUES (?, ?, ?, ?, ?) ON CONFLICT (month, id) DO UPDATE
SET requests = requests + excluded.requests, rows = rows + excluded.rows, bytes = bytes + excluded.bytes
"""
_COLUMNS: Final = "id, digest, tenant, scope, expires_s, created_s, revoked_s"


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key as the file has it."""

    key: Key
    created_s: float
    """Seconds since 1970, as the other times."""
    revoked_s: float | None
    """The time when it was revoked; None: it was not."""

    def state(self, wall_s: float) -> str:
        """Return in a word whether it is taken."""
        if self.revoked_s is not None:
            return "revoked"
        expires_s = self.key.expires_s
        return "expired" if expires_s is not None and expires_s <= wall_s else "active"


class KeyStore:
    """One file of keys. Every method opens it anew, and raises `ConfigError` when it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> int:
        """Return a number that is another one after each change, and in each file; 0: no key was ever made."""
        if not self._is_there():
            return 0
        with self._opened() as file:
            return _stamp(file)

    def all(self) -> list[KeptKey]:
        """Return all keys, also those that have ended, the oldest first."""
        if not self._is_there():
            return []
        with self._opened() as file:
            return _rows_of(file, self.path)

    def usable(self) -> tuple[int, list[Key]]:
        """Return the stamp, and the keys that are not revoked, as they are with it."""
        with self._opened() as file:
            file.execute("BEGIN")
            return _stamp(file), [
                each.key for each in _rows_of(file, self.path) if each.revoked_s is None
            ]

    def create(
        self, tenant: str, scope: Scope, wall_s: float, expires_s: float | None = None
    ) -> tuple[Key, str]:
        """Make a key and return it and its text, which is kept nowhere."""
        self._make()
        with self._opened() as file, file:
            file.execute("BEGIN IMMEDIATE")
            (count,) = file.execute("SELECT count(*) FROM keys").fetchone()
            if count >= MAX_KEYS:
                self._make_room(file, wall_s)
            while True:
                text = new_text(secrets.choice)
                key = Key(id_of(text), digest_of(text), tenant, scope, expires_s)
                is_free = not file.execute("SELECT 1 FROM keys WHERE id = ?", (key.id,)).fetchone()
                if is_free:
                    break
            file.execute(
                f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, NULL)",  # noqa: S608 - constants
                (
                    key.id,
                    key.digest,
                    tenant,
                    json.dumps(plain_values(scope)),
                    expires_s,
                    wall_s,
                ),
            )
            _changed(file)
        return key, text

    def write(self, usage: Usage) -> dict[str, Amount]:
        """Add to what was used, and return what each key has used in that month, all routers of the file together."""
        with self._opened() as file, file:
            if usage.rows or usage.keys:
                file.execute("BEGIN IMMEDIATE")
                file.executemany(
                    _ADD_USAGE, [(*row, *amount) for row, amount in usage.rows.items()]
                )
                file.executemany(
                    _ADD_MONTH,
                    [(usage.month, key_id, *amount) for key_id, amount in usage.keys.items()],
                )
                self._forget(file, usage)
            rows = file.execute(
                "SELECT id, requests, rows, bytes FROM months WHERE month = ?", (usage.month,)
            ).fetchall()
        return {key_id: Amount(*amount) for key_id, *amount in rows}

    def usage(self, from_hour: int, to_hour: int) -> dict[UsageRow, Amount]:
        """Return what was used from an hour on, counted since 1970, until before another."""
        if not self._is_there():
            return {}
        with self._opened() as file:
            rows = file.execute(
                "SELECT hour, tenant, model, requests, rows, bytes FROM usage WHERE hour >= ? AND hour < ?"
                " ORDER BY hour, tenant, model",
                (from_hour, to_hour),
            ).fetchall()
        return {
            UsageRow(hour, tenant, model): Amount(*amount) for hour, tenant, model, *amount in rows
        }

    @staticmethod
    def _forget(file: sqlite3.Connection, usage: Usage) -> None:
        """Delete what is too old."""
        newest = max((row.hour for row in usage.rows), default=0)
        file.execute("DELETE FROM usage WHERE hour < ?", (newest - KEPT_HOURS,))
        file.execute("DELETE FROM months WHERE month < ?", (usage.month,))

    def revoke(self, key_id: str, wall_s: float) -> KeptKey:
        """Revoke a key and return it; one that is revoked already stays as it was."""
        known = {each.key.id: each for each in self.all()}
        if key_id not in known:
            raise ConfigError(
                f"there is no key {key_id[:80]!r} in {self.path}; see the list: capamesh keys list"
            )
        with self._opened() as file, file:
            file.execute("BEGIN IMMEDIATE")
            file.execute(
                "UPDATE keys SET revoked_s = ? WHERE id = ? AND revoked_s IS NULL", (wall_s, key_id)
            )
            _changed(file)
        return known[key_id]

    def _is_there(self) -> bool:
        try:
            return self.path.exists()
        except OSError as exc:
            raise ConfigError(f"cannot look for {self.path}: {exc.strerror}") from exc

    def _make(self) -> None:
        """Make the file, for its owner alone, unless it is there."""
        make_folder(self.path.parent)
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise ConfigError(f"cannot make the file of keys {self.path}: {exc.strerror}") from exc
        with self._opened() as file:
            if _format(file) == 0:
                file.executescript(_MAKE)

    def _make_room(self, file: sqlite3.Connection, wall_s: float) -> None:
        oldest = file.execute(
            "SELECT id FROM keys WHERE revoked_s IS NOT NULL OR expires_s <= ? ORDER BY created_s LIMIT 1",
            (wall_s,),
        ).fetchone()
        if oldest is None:
            raise ConfigError(
                f"{self.path} has {MAX_KEYS} keys, the most that it may; revoke some: capamesh keys revoke"
            )
        file.execute("DELETE FROM keys WHERE id = ?", oldest)

    @contextlib.contextmanager
    def _opened(self) -> Generator[sqlite3.Connection]:
        """Open the file, which must be there, and close it at the end."""
        try:
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            with contextlib.closing(
                sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
            ) as file:
                if _format(file) > _FORMAT:
                    raise ConfigError(
                        f"{self.path} is of a newer version of capamesh than this: use that one"
                    )
                yield file
        except sqlite3.Error as exc:
            raise ConfigError(f"cannot use the keys in {self.path}: {exc}") from exc


def _format(file: sqlite3.Connection) -> int:
    (number,) = file.execute("PRAGMA user_version").fetchone()
    return int(number)


def _stamp(file: sqlite3.Connection) -> int:
    if _format(file) == 0:  # it was just made, and has no tables yet
        return 0
    (stamp,) = file.execute("SELECT stamp FROM changes").fetchone()
    return int(stamp)


def _changed(file: sqlite3.Connection) -> None:
    file.execute(
        "UPDATE changes SET stamp = CASE stamp WHEN 0 THEN ? ELSE stamp + 1 END",
        (secrets.randbits(STAMP_BITS) + 1,),
    )


def _rows_of(file: sqlite3.Connection, path: Path) -> list[KeptKey]:
    rows = file.execute(
        f"SELECT {_COLUMNS} FROM keys ORDER BY created_s, id"  # noqa: S608 - constants
    ).fetchall()
    found: list[KeptKey] = []
    for key_id, digest, tenant, scope, expires_s, created_s, revoked_s in rows:
        try:
            key = Key(key_id, digest, tenant, read(json.loads(scope), Scope), expires_s)
        except (Mismatch, ValueError) as exc:
            raise ConfigError(
                f"the scope of the key {key_id} in {path} cannot be read: {exc}; revoke it with the version of"
                " capamesh that made it"
            ) from exc
        found.append(KeptKey(key, created_s, revoked_s))
    return found
