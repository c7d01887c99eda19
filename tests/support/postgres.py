"""A server of PostgreSQL for tests: Debian's, in a folder of its own, on a port of this machine."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from free_ports import free_port
from psycopg import sql

PASSWORD = "pass word:@/%"  # noqa: S105 - of a server that is there for a test
"""A password that no URL has as it is, and that no text may say."""
QUOTED = "pass%20word%3A%40%2F%25"
_DEBIAN = Path("/usr/lib/postgresql")
_FLAGS = ("fsync=off", "max_connections=40", "shared_buffers=16MB", "listen_addresses=127.0.0.1")


def binaries() -> Path:
    """Return the folder of the server's programs, or leave the test out where it is not installed."""
    for folder in sorted(_DEBIAN.glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    pytest.skip("PostgreSQL's server is not here: apt-get install postgresql")


class Postgres:
    """One server, which can be stopped, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = str(folder / "data")
        self._bin = binaries()
        self.is_running = False

    def initialize(self) -> None:
        # the server does not run as root
        user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        self._user, self._group = user.pw_uid, user.pw_gid
        os.chown(self.folder, self._user, self._group)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        os.chown(secret, self._user, self._group)
        options = "--username=capamesh --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync"
        self._run("initdb", f"--pwfile={secret}", *options.split(), "-D", self._data)

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [str(self._bin / program), *words],
            check=True,
            capture_output=True,
            cwd=self.folder,
            user=self._user,
            group=self._group,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        )

    def start(self) -> None:
        flags = " ".join(f"-c {each}" for each in _FLAGS)
        flags += f" -c port={self.port} -c unix_socket_directories={self.folder}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self._data, "-w", "-l", log, "-o", flags, "start")
        self.is_running = True

    def stop(self) -> None:
        """Stop it at once, as in a crash, also where it is frozen."""
        if self.is_running:
            self.thaw()
            self.is_running = False
            self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and to all processes that serve its connections."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        # the others are looked for after that: a server that stands still starts no more of them
        os.kill(first, number)
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for pid in map(int, children):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def url(self, database: str = "postgres", password: str = QUOTED) -> str:
        return f"postgresql://capamesh:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        name = f"keys_{secrets.token_hex(6)}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    @staticmethod
    def patient(url: str) -> str:
        """Return a URL that gives a minute to connecting, where a router gives two seconds: a busy machine may take them."""
        return f"{url}?connect_timeout=60"

    def execute(self, statement: str | sql.Composed, url: str = "") -> None:
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[arg-type]


@contextmanager
def served() -> Iterator[Postgres]:
    binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = Postgres(folder)
    try:
        server.initialize()
        server.port = free_port()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
