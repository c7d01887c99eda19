"""Databases of PostgreSQL: how a URL is read and a server reached, and what limits its transactions. IO: connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event

from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    import psycopg

FRESH_S: Final = 60
"""Seconds after which a connection is made anew: the server may have become one that only reads."""
_GIVEN_UP: Final = {
    # an address that is silent is given up, not waited for
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The whole seconds for which a server is waited for, and waits itself."""

    connect_s: int
    """The seconds that connecting may take, to each of its addresses; libpq takes no less than 2."""
    statement_s: int
    """The seconds after which the server ends a statement."""
    lock_s: int
    """The seconds after which the server ends a statement that waits for another's transaction."""
    idle_s: int
    """The seconds after which the server ends a transaction that is not gone on with: its router may be frozen."""


def postgres_engine(url: str, kept: str, limits: TimeLimits, *, is_kept_open: bool) -> Engine:
    """Return an engine for the database at a URL that libpq reads; what the URL says itself of a connection goes before.

    `kept` is what is there, as messages call it, such as "keys". One connection is kept if `is_kept_open`; else none is.

    Raises:
        ConfigError: the URL is none that libpq reads, or the driver is missing; the text has nothing of the URL.
    """
    try:
        import psycopg  # noqa: PLC0415 - an extra, which few need
        from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415 - the same
    except ImportError as exc:
        raise ConfigError(
            f"{kept} in PostgreSQL need psycopg, which is not here: pip install 'capamesh[postgres]'"
        ) from exc
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:  # its text has the whole URL
        raise ConfigError(
            f"the URL of the {kept} is none that PostgreSQL reads; expected postgresql://USER@HOST:PORT/DATABASE, with special"
            " characters of the password as %XX"
        ) from None
    told = {
        **_GIVEN_UP,
        "connect_timeout": str(limits.connect_s),
        "application_name": f"capamesh {kept}",
        **given,
    }
    conninfo = make_conninfo("", **told)

    def connect() -> psycopg.Connection:
        # nothing is prepared at the server, so that a pooler may lend one connection to many
        return psycopg.connect(conninfo, prepare_threshold=None)

    pool: dict[str, Any] = {"poolclass": NullPool}
    if is_kept_open:
        pool = {
            "poolclass": QueuePool,
            "pool_size": 1,
            "max_overflow": 0,
            "pool_pre_ping": True,
            "pool_recycle": FRESH_S,
        }
    engine = create_engine("postgresql+psycopg://", creator=connect, hide_parameters=True, **pool)

    def begin(connection: Connection) -> None:
        # for this transaction alone: a pooler may lend the connection to others
        connection.exec_driver_sql(
            f"SELECT set_config('statement_timeout', '{limits.statement_s}s', true),"
            f" set_config('lock_timeout', '{limits.lock_s}s', true),"
            f" set_config('idle_in_transaction_session_timeout', '{limits.idle_s}s', true)"
        )

    event.listen(engine, "begin", begin)
    return engine
