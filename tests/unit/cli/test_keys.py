"""`capamesh keys` and `usage`: a key is printed once and shown by its id afterwards, with what was used by it; the shared cache's secret."""

from __future__ import annotations

import datetime as dt
import itertools
import os
from typing import TYPE_CHECKING

import pytest

from capamesh.cli.cache_options import read_cache
from capamesh.protocol.errors import ConfigError
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KeyStore
from capamesh.router.access.keys import Scope, digest_of, id_of
from capamesh.router.access.months import month_of
from capamesh.router.access.usage_batch import Amount, Usage, UsageBatch, UsageRow

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli

LAST_MINUTE_S = dt.datetime(2026, 11, 30, 23, 59, tzinfo=dt.UTC).timestamp()
"""The beginning of a month's last minute."""
URL = "valkey://:password@h:1/2"


def store_in(folder: Path, name: str = "keys.db") -> KeyStore:
    return KeyStore(DatabaseLocation(folder / name))


def test_key_is_printed_alone_and_listed_without_its_secret(tmp_path: Path, cli: Cli) -> None:
    made = cli("keys create lab --may infer,read --model d* --data", tmp_path)
    text = made.out.strip()
    assert "the first of its store" in made.err
    (kept,) = store_in(tmp_path).all()
    assert (kept.key.id, kept.key.digest) == (id_of(text), digest_of(text))
    second = cli("keys create prometheus --may metrics --json --data", tmp_path).json
    assert id_of(second["key"]) == second["id"]
    assert (second["tenant"], second["verbs"]) == ("prometheus", ["metrics"])
    said = cli("keys revoke", kept.key.id, "--data", tmp_path).out
    assert said == f"key {kept.key.id} of lab is revoked\n"
    shown = cli("keys list --json --data", tmp_path)
    assert [(row["id"], row["state"], row["models"]) for row in shown.json] == [
        (kept.key.id, "revoked", ["d*"]),
        (second["id"], "active", []),
    ]
    assert text[12:] not in shown.out
    assert f"{kept.key.id}  lab" in cli("keys list --data", tmp_path).out


def test_rows_of_this_month_are_shown_beside_their_limit(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the month that rows are written for must not end before they are listed; keys are listed in the order of their times
    moments_s = itertools.count(LAST_MINUTE_S)
    monkeypatch.setattr(KeyStore, "now_s", lambda _: next(moments_s))
    for more in ("--rows-per-month 5000", "", ""):
        cli(f"keys create lab {more} --data", tmp_path)
    store = store_in(tmp_path)
    first, second, third = (each.key.id for each in store.all())
    used = {first: Amount(3, 1234, 5), second: Amount(1, 7, 5)}
    store.write(UsageBatch(Usage(month_of(store.now_s()), {}, used)))
    store.write(UsageBatch(Usage("1999-12", {}, {third: Amount(1, 99, 9)})))
    shown = cli("keys list --data", tmp_path).lines
    for key, rows in ((first, "1,234 of 5,000"), (second, "7"), (third, "0")):
        assert any(line.startswith(key) and f"all {rows} " in line for line in shown)
    shown = cli("keys list --json --data", tmp_path).json
    assert [row["rows_this_month"] for row in shown] == [1234, 7, 0]


def test_nodes_and_time_that_a_key_is_for_are_kept_and_shown(tmp_path: Path, cli: Cli) -> None:
    line = "keys create lab --region eu --region us --max-price 0 --json --expires 30d --keys"
    shown = cli(line, tmp_path / "own.db").json
    (kept,) = store_in(tmp_path, "own.db").all()
    assert kept.key.expires_s == pytest.approx(kept.created_s + 30 * 86400)
    assert (shown["regions"], shown["max_price"]) == (["eu", "us"], 0.0)
    assert (kept.key.scope.regions, kept.key.scope.max_price) == (("eu", "us"), 0.0)


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("keys create lab", 1, "--data"),
        ("keys create ' lab' --data .", 2, "no tenant"),
        ("keys create lab --may fly --data .", 2, "verbs"),
        ("keys create lab --region '' --data .", 2, "regions"),
        ("keys create lab --region eu --region eu --data .", 2, "name it once"),
        ("keys create lab --max-price -1 --data .", 2, "--max-price"),
        ("keys create lab --expires soon --data .", 2, "no duration"),
        ("keys list --keys mysql://me:secret@db/keys", 1, "begins with mysql:/"),
        ("keys revoke nobody --keys k.db", 1, "there is no key 'nobody'"),
        *[
            (f"usage --month {month} --data .", 2, "is no month")
            for month in ("2026-13", "November", "2026-1", "0000-01", "2026-11-01")
        ],
    ],
)
def test_wrong_use_is_told_without_a_password(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str, status: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = cli(line, status=status).err
    assert (said in told, "secret" in told) == (True, False)
    assert [each.name for each in tmp_path.iterdir() if "k.db" not in line] == []


# usage


def hour_of(*moment: int) -> int:
    return int(dt.datetime(*moment, tzinfo=dt.UTC).timestamp()) // 3600  # type: ignore[misc,arg-type]


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """Return a folder whose keys were used in November, and right before and after it."""
    store = store_in(tmp_path)
    store.create("lab", Scope(), 0.0)
    last_hour = hour_of(2026, 11, 30, 23)
    rows = {
        UsageRow(hour_of(2026, 10, 31, 23), "lab", "m"): Amount(100, 100, 100),
        UsageRow(hour_of(2026, 11, 1, 0), "lab", "m"): Amount(1, 2, 3),
        UsageRow(last_hour, "lab", "m"): Amount(10, 20, 2048),
        UsageRow(last_hour, "shop", "n"): Amount(1000, 1000, 0),
        UsageRow(last_hour + 1, "lab", "m"): Amount(100, 100, 100),
    }
    store.write(UsageBatch(Usage("2026-12", rows, {})))
    return tmp_path


def test_month_is_summed_by_tenant_and_model_and_shown_by_hours(
    used: Path, cli: Cli, tmp_path: Path
) -> None:
    rows = cli("usage --month 2026-11 --json --data", used).json
    assert [tuple(row.values()) for row in rows] == [
        ("2026-11", "lab", "m", 11, 22, 2051),
        ("2026-11", "shop", "n", 1000, 1000, 0),
    ]
    assert cli("usage --month 2026-11 --data", used).lines == [
        "TENANT MODEL REQUESTS ROWS TENSORS",
        "lab m 11 22 2 KiB",
        "shop n 1,000 1,000 0 B",
    ]
    line = "usage --month 2026-11 --tenant lab --hourly --data"
    assert [(row["hour"], row["rows"]) for row in cli(f"{line} {used} --json").json] == [
        ("2026-11-01T00:00:00+00:00", 2),
        ("2026-11-30T23:00:00+00:00", 20),
    ]
    assert "2026-11-30 23:00" in cli(line, used).out
    assert cli("usage --json --data", tmp_path / "without keys").json == []


# the secret of the store that routers share


def test_store_and_secret_are_read_and_leave_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "cache.secret"
    secret.write_text("s" * 64 + "\n")
    for mode, warning in ((0o600, ""), (0o644, f"chmod 600 {secret}")):
        secret.chmod(mode)
        monkeypatch.setenv("CAPAMESH_CACHE", URL)
        assert read_cache(URL, secret) == (URL, b"s" * 64)
        assert "CAPAMESH_CACHE" not in os.environ
        said = capsys.readouterr().err
        assert (warning in said, bool(said)) == (True, bool(warning))


def test_store_without_a_secret_that_can_be_used_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "cache.secret"
    short.write_text("s" * 31 + "\n  ")
    short.chmod(0o600)
    assert read_cache("", None) == read_cache("", short) == ("", b"")
    for url, secret, said in (
        (URL, None, r"--cache needs --cache-secret FILE.*openssl rand"),
        (URL, tmp_path / "no-such", "no-such"),
        ("http://:password@h", short, "valkey://HOST:PORT/DB"),
        (URL, short, "a secret of 31 bytes; 32 at least"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            read_cache(url, secret)
        assert "password@" not in caught.value.message
