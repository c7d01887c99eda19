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


def owned(name: str, *others: str, version: str = "1", **more: str) -> dict[str, Any]:
    alike = [{"digest": each} for each in others]
    return {"name": name, "version": version, "digest": "", "others": alike, **more}


OWNED = [owned(name, digest("a"), digest("b")) for name in ("m", "a.b c")]


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def test_digest_is_written_into_rules_that_keep_all_else(rules: Path) -> None:
    rules.write_text('# mine\n[m]\npolicy = "p2c"\n\n["*"]\nhedge = false\n')
    trust_model(OWNED, "m", "1", "aaaa", rules)
    trust_model(OWNED, "a.b c", "1", digest("b"), rules)
    assert tomllib.loads(rules.read_text()) == {
        "m": {"policy": "p2c", "digests": {"1": digest("a")}},
        "*": {"hedge": False},
        "a.b c": {"digests": {"1": digest("b")}},
    }
    trust_model(OWNED, "m", "1", "b", rules)
    trust_model(OWNED, "m", "2", "d" * 64, rules)  # whole, though it is not listed
    assert tomllib.loads(rules.read_text())["m"]["digests"] == {"1": digest("b"), "2": digest("d")}
    assert rules.read_text().startswith("# mine\n")
    new = rules.with_name("new.toml")
    trust_model(OWNED, "m", "1", "a", new)
    assert new.read_text() == f'[m.digests]\n"1" = "{digest("a")}"\n'


def test_versions_that_lose_requests_by_it_are_named(
    rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {"digest": digest("a"), "reason": "first_seen"}
    versions = [
        owned("m", version="1", standing="trusted", **first),
        owned("m", version="2", standing="on trial", **first),
        owned("m", version="3", standing="trusted", **first),
        owned("m", version="4", standing="trusted", digest=digest("a"), reason="signed"),
    ]
    trust_model(versions, "m", "1", "aaaa", rules)
    assert "no more to 3:" in " ".join(capsys.readouterr().err.split())
    trust_model(versions, "m", "3", "aaaa", rules)
    assert "no more to" not in " ".join(capsys.readouterr().err.split())


ALIKE = [f"sha256-chunks:{'a' * 20}{letter * 44}" for letter in "bc"]


@pytest.mark.parametrize(
    ("model", "version", "meant", "text", "says"),
    [
        ("m", "1", "c", "", "no digest of 'm' version 1 begins with 'c'"),
        ("m", "2", "a", "", "nodes host no file"),
        ("n", "1", "aaaa", "", f"{ALIKE[0]}, {ALIKE[1]}"),  # several that begin so
        ("m", "1", "a", "[m]\nwrong = 1\n", "wrong"),
        ("m", "1", "a", f'[m]\ndigests = {{ "1" = "{digest("b")}" }}\n', "digests"),
    ],
)
def test_rules_that_cannot_be_written_are_refused_and_the_file_left_alone(
    rules: Path, model: str, version: str, meant: str, text: str, says: str
) -> None:
    rules.write_text(text)
    with pytest.raises(ConfigError, match=says):
        trust_model([*OWNED, owned("n", *ALIKE)], model, version, meant, rules)
    assert rules.read_text() == text
