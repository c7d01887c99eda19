"""`capamesh keys`: a key is printed once, and shown by its id afterwards."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from pathlib import Path

import pytest

from capamesh.cli.__main__ import run
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KeyStore
from capamesh.router.access.keys import digest_of, id_of
from capamesh.router.access.months import month_of
from capamesh.router.access.usage_batch import Amount, Usage, UsageBatch

LAST_MINUTE_S = dt.datetime(2026, 11, 30, 23, 59, tzinfo=dt.UTC).timestamp()
"""The beginning of a month's last minute."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CAPAMESH_DATA", raising=False)
    monkeypatch.delenv("CAPAMESH_KEYS", raising=False)
    return tmp_path


def test_key_is_printed_alone_and_listed_without_its_secret(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(folder)]
    assert run(["keys", "create", "lab", "--may", "infer,read", "--model", "d*", *where]) == 0
    made = capsys.readouterr()
    text = made.out.strip()
    assert id_of(text)
    assert "the first of its store" in made.err
    (kept,) = KeyStore(DatabaseLocation(folder / "keys.db")).all()
    assert kept.key.digest == digest_of(text)
    assert run(["keys", "create", "prometheus", "--may", "metrics", "--json", *where]) == 0
    second = json.loads(capsys.readouterr().out)
    assert (id_of(second["key"]), second["tenant"], second["verbs"]) == (
        second["id"],
        "prometheus",
        ["metrics"],
    )

    assert run(["keys", "revoke", kept.key.id, *where]) == 0
    assert capsys.readouterr().out == f"key {kept.key.id} of lab is revoked\n"
    assert run(["keys", "list", "--json", *where]) == 0
    shown = capsys.readouterr().out
    rows = json.loads(shown)
    assert [(row["id"], row["state"], row["models"]) for row in rows] == [
        (kept.key.id, "revoked", ["d*"]),
        (second["id"], "active", []),
    ]
    assert text[12:] not in shown
    assert run(["keys", "list", *where]) == 0
    assert f"{kept.key.id}  lab" in capsys.readouterr().out


def test_rows_of_this_month_are_shown_beside_their_limit(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the month that rows are written for must not end before they are listed; keys are listed in the order of their times
    moments_s = itertools.count(LAST_MINUTE_S)
    monkeypatch.setattr(KeyStore, "now_s", lambda _: next(moments_s))
    where = ["--data", str(folder)]
    for more in (["--rows-per-month", "5000"], [], []):
        assert run(["keys", "create", "lab", *more, *where]) == 0
    store = KeyStore(DatabaseLocation(folder / "keys.db"))
    first, second, third = (each.key.id for each in store.all())
    used = {first: Amount(3, 1234, 5), second: Amount(1, 7, 5)}
    store.write(UsageBatch(Usage(month_of(store.now_s()), {}, used)))
    store.write(UsageBatch(Usage("1999-12", {}, {third: Amount(1, 99, 9)})))
    capsys.readouterr()
    assert run(["keys", "list", *where]) == 0
    shown = capsys.readouterr().out
    for key, rows in ((first, "1,234 of 5,000"), (second, "7"), (third, "0")):
        (line,) = [line for line in shown.splitlines() if key in line]
        assert f"all     {rows} " in line
    assert run(["keys", "list", "--json", *where]) == 0
    rows = [row["rows_this_month"] for row in json.loads(capsys.readouterr().out)]
    assert rows == [1234, 7, 0]


def test_nodes_that_a_key_is_for_are_kept_and_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--region", "eu", "--region", "us", "--max-price", "0", "--json"]
    words += ["--expires", "30d", "--keys", str(folder / "own.db")]
    assert run(["keys", "create", "lab", *words]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["regions"], shown["max_price"]) == (["eu", "us"], 0.0)
    (kept,) = KeyStore(DatabaseLocation(folder / "own.db")).all()
    assert kept.key.expires_s == pytest.approx(kept.created_s + 30 * 86400)
    assert (kept.key.scope.regions, kept.key.scope.max_price) == (("eu", "us"), 0.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "lab"], "--data"),
        (["create", " lab", "--data", "."], "no tenant"),
        (["create", "lab", "--may", "fly", "--data", "."], "verbs"),
        (["create", "lab", "--region", "", "--data", "."], "regions"),
        (["create", "lab", "--region", "eu", "--region", "eu", "--data", "."], "name it once"),
        (["create", "lab", "--max-price", "-1", "--data", "."], "--max-price"),
        (["create", "lab", "--expires", "soon", "--data", "."], "no duration"),
    ],
)
def test_wrong_use_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(["keys", *words]) == 2
    assert said in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_key_or_database_that_is_not_there_is_told_without_a_password(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "list", "--keys", "mysql://me:secret@db/keys"]) == 1
    said = capsys.readouterr().err
    assert ("begins with mysql:/" in said, "secret" in said) == (True, False)
    assert run(["keys", "revoke", "nobody", "--data", str(folder)]) == 1
    assert "there is no key 'nobody'" in capsys.readouterr().err
