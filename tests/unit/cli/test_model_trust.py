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
    assert rules.read_text().startswith("# mine\n")


def test_rules_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    trust_model(OWNED, "m", "1", "a", tmp_path / "new.toml")
    assert (tmp_path / "new.toml").read_text() == f'[m.digests]\n"1" = "{digest("a")}"\n'


@pytest.mark.parametrize(
    ("version", "meant", "text", "says"),
    [
        ("1", "c", "", "no digest of 'm' version 1 begins with 'c'"),
        ("1", "", "", "no digest of 'm'"),
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
