"""The options that get a command through a proxy, and that a key among them is shown nowhere."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import typer

from capamesh.cli.__main__ import run
from capamesh.cli.access import HEADERS_VARIABLE, access
from capamesh.client import Client
from capamesh.client.retries import DEFAULT_RETRIES
from capamesh.protocol.network import NetworkOwner
from capamesh.router.access.operator_key import OperatorKey

PEER = "12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"


def test_headers_are_those_of_the_variable_and_of_the_options_which_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(HEADERS_VARIABLE, raising=False)
    assert access(None, None) == {"headers": {}, "ca": None}
    monkeypatch.setenv(HEADERS_VARIABLE, "Authorization: Bearer a\n\nX-Team:b:c \n")
    assert access(None, None)["headers"] == {"Authorization": "Bearer a", "X-Team": "b:c"}
    found = access(["authorization:Bearer z"], Path("ca.pem"))
    assert found == {
        "headers": {"X-Team": "b:c", "authorization": "Bearer z"},
        "ca": Path("ca.pem"),
    }


@pytest.mark.parametrize("text", ["s3cret", ": s3cret", "", "  "])
def test_text_that_is_no_header_is_a_usage_error_without_it(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delenv(HEADERS_VARIABLE, raising=False)
    with pytest.raises(typer.BadParameter) as caught:
        access([text], None)
    assert caught.value.message == (
        "a header is 'NAME: VALUE', for example 'Authorization: Bearer KEY'"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["nodes"],
        ["models"],
        ["explain", "m"],
        ["infer", "m", "-i", "X=1"],
        ["network", "show", "--dir", "owner", "--router", "http://10.0.0.5"],
        ["network", "revoke", PEER, "--dir", "owner", "--router", "http://10.0.0.5"],
        ["network", "rotate-key", "--dir", "owner", "--router", "http://10.0.0.5"],
        ["node", "drain", PEER, "--dir", "owner"],
        ["node", "enable", PEER, "--dir", "owner"],
        ["circuit", PEER, "open", "--data", "owner"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_command_hands_its_headers_and_authority_to_the_client(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    NetworkOwner.create("home", dt.datetime.now(dt.UTC)).save(tmp_path / "owner")
    OperatorKey.create(tmp_path / "owner")
    made: list[dict[str, Any]] = []

    def init(_: Client, url: object, **given: Any) -> None:
        made.append(given)
        raise typer.Exit(9)

    monkeypatch.setattr(Client, "__init__", init)
    assert run([*command, "--header", "Authorization: Bearer s3cret", "--ca", "ca.pem"]) == 9
    (given,) = made
    assert given.pop("retries", DEFAULT_RETRIES) == DEFAULT_RETRIES
    assert given == {"headers": {"Authorization": "Bearer s3cret"}, "ca": Path("ca.pem")}
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err


def test_header_that_cannot_be_sent_is_an_error_without_its_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["nodes", "--header", "X-Key: s3cr\u00e9t"]) == 1
    said = capsys.readouterr()
    assert "the value of the header 'X-Key' is no printable ASCII text" in said.err
    assert "s3cr" not in said.out + said.err


def test_key_and_certificate_are_those_of_the_options_or_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {"key", "cert"}.isdisjoint(access(None, None))
    monkeypatch.setenv("CAPAMESH_KEY", " cm_of_variable \n")
    assert access(None, None)["key"] == "cm_of_variable"
    assert access(None, None, "cm_of_option")["key"] == "cm_of_option"
    own, key = Path("own.pem"), Path("own.key")
    assert access(None, None, cert=own)["cert"] == own
    assert access(None, None, cert=own, cert_key=key)["cert"] == (own, key)
    with pytest.raises(typer.BadParameter, match="give --cert, too"):
        access(None, None, cert_key=key)
