"""Stores of keys, in each database that they may be in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Postgres, served

from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KeyStore


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with served() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseLocation:
    if request.param == "sqlite":
        return DatabaseLocation(tmp_path / "keys.db")
    server: Postgres = request.getfixturevalue("postgres")
    return DatabaseLocation.of(server.patient(server.new_database()), "keys")


@pytest.fixture
def store(location: DatabaseLocation) -> Iterator[KeyStore]:
    store = KeyStore(location, is_kept_open=True)
    yield store
    store.close()
