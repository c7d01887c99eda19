"""`capamesh model trust`: the digest that comes into a rules file, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from capamesh.cli.model_trust import trust_model
from capamesh.protocol.errors import ConfigError


def digest(letter: str) -> str:
    return "sha256-chunks:" + letter * 64


OWNED: list[dict[str, Any]] = [
    {"name": name, "version": "1", "digest": "", "others": [{"digest": digest(d)} for d in "ab"]}
    for name in ("m", "a.b c")
]


def test_digest_is_written_into_rules_that_keep_all_else(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('# mine\n[m]\npolicy = "p2c"\n\n["*"]\nhedge = false\n')
    trust_model(OWNED, "m", "1", "aaaa", rules)
    trust_model(OWNED, "a.b c", "1", digest("b"), rules)
    assert tomllib.loads(rules.read_text()) == {
        "m": {"policy": "p2c", "digests": {"1": digest("a")}},
        "*": {"hedge": False},
        "a.b c": {"digests": {"1": digest("b")}},
    }
    trust_model(OWNED, "m", "1", "b", rules)
    assert tomllib.loads(rules.read_text())["m"]["digests"] == {"1": digest("b")}
    trust_model(OWNED, "m", "2", "d" * 64, rules)  # whole, though it is not listed
    assert tomllib.loads(rules.read_text())["m"]["digests"] == {"1": digest("b"), "2": digest("d")}
    assert rules.read_text().startswith("# mine\n")
    trust_model(OWNED, "m", "1", "a", tmp_path / "new.toml")
    assert (tmp_path / "new.toml").read_text() == f'[m.digests]\n"1" = "{digest("a")}"\n'


def test_several_that_begin_alike_are_shown_whole(tmp_path: Path) -> None:
    alike = [f"sha256-chunks:{'a' * 20}{letter * 44}" for letter in "bc"]
    owned = [{"name": "m", "version": "1", "digest": alike[0], "others": [{"digest": alike[1]}]}]
    with pytest.raises(ConfigError, match=f"{alike[0]}, {alike[1]}"):
        trust_model(owned, "m", "1", "aaaa", tmp_path / "rules.toml")


def test_versions_that_lose_requests_by_it_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others: list[dict[str, Any]] = []
    owned = [
        {
            "name": "m",
            "version": version,
            "digest": digest("a"),
            "standing": standing,
            "reason": reason,
            "others": others,
        }
        for version, standing, reason in (
            ("1", "trusted", "first_seen"),
            ("2", "on trial", "first_seen"),
            ("3", "trusted", "first_seen"),
            ("4", "trusted", "signed"),
        )
    ]
    trust_model(owned, "m", "1", "aaaa", tmp_path / "rules.toml")
    assert "no more to 3:" in " ".join(capsys.readouterr().err.split())
    trust_model(owned, "m", "3", "aaaa", tmp_path / "rules.toml")
    assert "no more to" not in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("version", "meant", "text", "says"),
    [
        ("1", "c", "", "no digest of 'm' version 1 begins with 'c'"),
        ("2", "a", "", "nodes host no file"),
        ("1", "a", "[m]\nwrong = 1\n", "wrong"),
        ("1", "a", f'[m]\ndigests = {{ "1" = "{digest("b")}" }}\n', "digests"),
    ],
)
def test_rules_that_cannot_be_written_are_refused_and_the_file_left_alone(
    tmp_path: Path, version: str, meant: str, text: str, says: str
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(text)
    with pytest.raises(ConfigError, match=says):
        trust_model(OWNED, "m", version, meant, rules)
    assert rules.read_text() == text
