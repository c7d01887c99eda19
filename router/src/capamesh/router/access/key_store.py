"""The store of a router's keys, and of what was used with them: tables of SQLite or PostgreSQL. IO: these, and chance for new keys.

Routers may share a store, and commands write it while they run: a stamp in it is another one after each
change, so that a router that looks once a second reads all keys only when they are others.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.schema import Mismatch, plain_values, read
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_databases import database_at
from capamesh.router.access.keys import Key, Scope, digest_of, id_of, new_text
from capamesh.router.access.months import HOUR_S, month_of
from capamesh.router.access.usage_batch import Amount, Usage, UsageBatch, UsageRow, WrittenUsage

MAX_KEYS: Final = 10_000
"""The most keys of one store, those included that have ended (guess: some 10 MB in each process of a router)."""
KEPT_HOURS: Final = 400 * 24
"""The hours for which usage is kept: a year, and the time to look at its last month."""
WRITERS_KEPT_S: Final = 86_400.0
"""Seconds for which it is remembered what a process has written (guess: longer than a database is out of reach)."""
SHARED_S: Final = 10.0
"""Seconds for which a process counts as one that uses a key after it has (guess: shorter than most pauses of a client that is at work)."""
STAMP_BITS: Final = 60
"""The bits of a store's first stamp, which is drawn: one that was made anew is not taken for the one before."""
_LATER: Final = ("max_price", "regions")
"""The limits of a scope that are left out where they are none, so that routers of before them read the key."""

_TABLES: Final = MetaData()
_COUNTS: Final = ("requests", "rows", "bytes")


def _counts() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in _COUNTS]


_keys: Final = Table(
    "keys",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double),
    Column("revoked_s", Double),
)
_usage: Final = Table(
    "usage",
    _TABLES,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("tenant", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    *_counts(),
)
_months: Final = Table(
    "months",
    _TABLES,
    Column("month", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    *_counts(),
)
_changes: Final = Table("changes", _TABLES, Column("stamp", BigInteger, nullable=False))
_writers: Final = Table(
    "writers",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("batch", BigInteger, nullable=False),
    Column("seen_s", Double, nullable=False),
)
_users: Final = Table(
    "users",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("writer", Text, primary_key=True),
    Column("seen_s", Double, nullable=False),
)


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key as the store has it."""

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
    """One store of keys. Every method blocks, and raises `ConfigError` when the store cannot be read or written."""

    def __init__(
        self,
        location: DatabaseLocation,
        *,
        clock: Callable[[], float] = time.time,
        is_kept_open: bool = False,
    ) -> None:
        """`clock` is that of this machine, in seconds since 1970, by which files go; `is_kept_open` keeps a connection to a database.

        Raises `ConfigError`: the place is none that can be used here.
        """
        self.location = location
        self._database = database_at(location, clock=clock, is_kept_open=is_kept_open)
        self._has_all_tables = False
        self._forgot_hour = 0
        """The hour in which what is too old was deleted."""

    def is_there(self) -> bool:
        """Return whether there is a store, as far as that can be told without opening it."""
        return self._database.is_there()

    def close(self) -> None:
        """Let go of the connection that is kept."""
        self._database.close()

    def cut(self) -> None:
        """Have a method that waits for a server end with an error; any thread may call this, and it does not block."""
        self._database.cut()

    def now_s(self) -> float:
        """Return the time by the clock that all who use the store go by, in seconds since 1970."""
        return self._database.now_s()

    def stamp(self) -> int:
        """Return a number that is another one after each change, and in each store; 0: no key was ever made."""
        if not self.is_there():
            return 0
        with self._database.opened() as connection:
            return self._stamp(connection)

    def all(self) -> list[KeptKey]:
        """Return all keys, also those that have ended, the oldest first."""
        if not self.is_there():
            return []
        with self._database.opened() as connection:
            return self._rows(connection)

    def usable(self) -> tuple[int, list[Key]]:
        """Return the stamp, and the keys that are not revoked, as they are with it or after later changes."""
        with self._database.opened() as connection:
            stamp = self._stamp(connection)
            return stamp, [each.key for each in self._rows(connection) if each.revoked_s is None]

    def create(
        self, tenant: str, scope: Scope, wall_s: float, expires_s: float | None = None
    ) -> tuple[Key, str]:
        """Make a key and return it and its text, which is kept nowhere."""
        self._database.make()
        self._database.add_tables(_TABLES)
        with self._database.opened(is_written=True) as connection:
            self._change(connection)
            if connection.scalars(select(func.count()).select_from(_keys)).one() >= MAX_KEYS:
                self._make_room(connection, wall_s)
            while True:
                text = new_text(secrets.choice)
                key = Key(id_of(text), digest_of(text), tenant, scope, expires_s)
                taken = select(_keys.c.id).where(_keys.c.id == key.id)
                if connection.scalars(taken).one_or_none() is None:
                    break
            connection.execute(
                insert(_keys).values(
                    id=key.id,
                    digest=key.digest,
                    tenant=tenant,
                    scope=_text_of(scope),
                    created_s=wall_s,
                    expires_s=expires_s,
                )
            )
        return key, text

    def revoke(self, key_id: str, wall_s: float) -> KeptKey:
        """Revoke a key and return it; one that is revoked already stays as it was."""
        known = {each.key.id: each for each in self.all()}
        if key_id not in known:
            raise ConfigError(
                f"there is no key {key_id[:80]!r} in {self.location}; see the list: capamesh keys list"
            )
        with self._database.opened(is_written=True) as connection:
            self._change(connection)
            is_meant = (_keys.c.id == key_id, _keys.c.revoked_s.is_(None))
            connection.execute(update(_keys).where(*is_meant).values(revoked_s=wall_s))
        return known[key_id]

    def write(self, batch: UsageBatch) -> WrittenUsage:
        """Add to what was used, unless it was added before; return what is known of all routers together then."""
        usage = batch.usage
        is_written = bool(usage.rows or usage.keys)
        if is_written and not self._has_all_tables:  # a file of before there were any
            self._database.add_tables(_TABLES)
            self._has_all_tables = True
        with self._database.opened(is_written=is_written) as connection:
            if is_written and self._is_new(connection, batch):
                self._add(connection, batch)
            totals = self._totals(connection, usage.month)
            others = self._others(connection, batch) if self._has_all_tables else {}
        return WrittenUsage(totals, others)

    def month_of_keys(self, month: str) -> dict[str, Amount]:
        """Return what was used in a month, as `month_of` names it, by the ids of keys."""
        if self.stamp() == 0:
            return {}
        with self._database.opened() as connection:
            return self._totals(connection, month)

    def usage(self, from_hour: int, to_hour: int) -> dict[UsageRow, Amount]:
        """Return what was used from an hour on, counted since 1970, until before another."""
        if self.stamp() == 0:
            return {}
        with self._database.opened() as connection:
            rows = connection.execute(
                select(_usage)
                .where(_usage.c.hour >= from_hour, _usage.c.hour < to_hour)
                .order_by(_usage.c.hour, _usage.c.tenant, _usage.c.model)
            ).all()
        return {
            UsageRow(hour, tenant, model): Amount(*amount) for hour, tenant, model, *amount in rows
        }

    def _totals(self, connection: Connection, month: str) -> dict[str, Amount]:
        rows = connection.execute(
            select(_months.c.id, *(_months.c[name] for name in _COUNTS)).where(
                _months.c.month == month
            )
        ).all()
        return {key_id: Amount(*amount) for key_id, *amount in rows}

    def _stamp(self, connection: Connection) -> int:
        if self._database.format(connection) == 0:  # it has no tables yet
            return 0
        return connection.scalars(select(func.max(_changes.c.stamp))).one() or 0

    def _change(self, connection: Connection) -> None:
        """Make the stamp another one; who else changes keys waits until this transaction has ended."""
        first = secrets.randbits(STAMP_BITS) + 1
        following = case((_changes.c.stamp == 0, first), else_=_changes.c.stamp + 1)
        if connection.execute(update(_changes).values(stamp=following)).rowcount == 0:
            connection.execute(insert(_changes).values(stamp=first))

    def _make_room(self, connection: Connection, wall_s: float) -> None:
        has_ended = or_(_keys.c.revoked_s.is_not(None), _keys.c.expires_s <= wall_s)
        oldest = select(_keys.c.id).where(has_ended).order_by(_keys.c.created_s).limit(1)
        found = connection.scalars(oldest).one_or_none()
        if found is None:
            raise ConfigError(
                f"{self.location} has {MAX_KEYS} keys, the most that it may; revoke some: capamesh keys revoke"
            )
        connection.execute(delete(_keys).where(_keys.c.id == found))

    def _rows(self, connection: Connection) -> list[KeptKey]:
        if self._database.format(connection) == 0:
            return []
        rows = connection.execute(select(_keys).order_by(_keys.c.created_s, _keys.c.id)).all()
        found: list[KeptKey] = []
        for key_id, digest, tenant, scope, created_s, expires_s, revoked_s in rows:
            try:
                key = Key(key_id, bytes(digest), tenant, read(json.loads(scope), Scope), expires_s)
            except (Mismatch, ValueError) as exc:
                raise ConfigError(
                    f"the scope of the key {key_id} in {self.location} cannot be read: {exc}; revoke it with the version of"
                    " capamesh that made it"
                ) from exc
            found.append(KeptKey(key, created_s, revoked_s))
        return found

    def _is_new(self, connection: Connection, batch: UsageBatch) -> bool:
        """Note that a batch is written, and return whether it was not yet."""
        if not batch.writer:
            return True
        insertion = self._database.insert(_writers).values(
            id=batch.writer, batch=batch.number, seen_s=batch.at_s
        )
        given = insertion.excluded
        noting = insertion.on_conflict_do_update(
            index_elements=["id"],
            set_={"batch": given.batch, "seen_s": given.seen_s},
            where=_writers.c.batch < given.batch,
        ).execution_options(preserve_rowcount=True)
        return connection.execute(noting).rowcount > 0

    def _add(self, connection: Connection, batch: UsageBatch) -> None:
        usage = batch.usage
        # in one order, so that no two processes wait for one another
        for table, names, rows in (
            (_usage, ("hour", "tenant", "model"), sorted(usage.rows.items())),
            (_months, ("month", "id"), sorted(_by_month(usage).items())),
        ):
            insertion = self._database.insert(table)
            given = insertion.excluded
            adding = insertion.on_conflict_do_update(
                index_elements=[*names],
                set_={name: table.c[name] + given[name] for name in _COUNTS},
            )
            values = [
                dict(zip((*names, *_COUNTS), (*place, *amount), strict=True))
                for place, amount in rows
            ]
            if values:
                connection.execute(adding, values)
        if batch.writer:
            self._note_users(connection, batch)
        self._forget(connection, batch)

    def _others(self, connection: Connection, batch: UsageBatch) -> dict[str, int]:
        """Return how many other processes have used each key of late."""
        is_other = (_users.c.writer != batch.writer, _users.c.seen_s > batch.at_s - SHARED_S)
        counted = select(_users.c.id, func.count()).where(*is_other).group_by(_users.c.id)
        return {key_id: int(count) for key_id, count in connection.execute(counted).all()}

    def _note_users(self, connection: Connection, batch: UsageBatch) -> None:
        insertion = self._database.insert(_users)
        noting = insertion.on_conflict_do_update(
            index_elements=["id", "writer"], set_={"seen_s": insertion.excluded.seen_s}
        )
        values = [
            {"id": key_id, "writer": batch.writer, "seen_s": batch.at_s}
            for key_id in sorted(batch.usage.keys)
        ]
        if values:
            connection.execute(noting, values)

    def _forget(self, connection: Connection, batch: UsageBatch) -> None:
        """Delete what is too old, once an hour."""
        newest = max((row.hour for row in batch.usage.rows), default=0)
        if newest <= self._forgot_hour:
            return
        self._forgot_hour = newest
        oldest = newest - KEPT_HOURS
        connection.execute(delete(_usage).where(_usage.c.hour < oldest))
        first_month = month_of(max(0, oldest) * HOUR_S)
        connection.execute(delete(_months).where(_months.c.month < first_month))
        seen_s = batch.at_s - WRITERS_KEPT_S
        for table in (_writers, _users):
            connection.execute(delete(table).where(table.c.seen_s < seen_s))


def _by_month(usage: Usage) -> dict[tuple[str, str], Amount]:
    return {(usage.month, key_id): amount for key_id, amount in usage.keys.items()}


def _text_of(scope: Scope) -> str:
    values: dict[str, Any] = plain_values(scope)
    for name in _LATER:
        if values[name] in (None, [], ()):  # a price of 0 is a limit
            del values[name]
    return json.dumps(values)
