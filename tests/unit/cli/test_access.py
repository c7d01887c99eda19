"""The options that get a command through a proxy and a member into a network, and that no secret among them is shown."""

from __future__ import annotations

import fcntl
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from capamesh.cli import services
from capamesh.cli.access import HEADERS_VARIABLE, access
from capamesh.cli.options import read_token
from capamesh.client import Client
from capamesh.client.retries import DEFAULT_RETRIES
from capamesh.protocol.data_dir import LOCK_FILE, DataDir
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import is_exposed
from capamesh.router.access.operator_key import KEY_FILE, OperatorKey

if TYPE_CHECKING:
    from .conftest import Cli, Owner

PEER = "12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"


def test_headers_key_and_certificate_are_those_of_the_options_which_count_or_of_the_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(HEADERS_VARIABLE, raising=False)
    assert access(None, None) == {"headers": {}, "ca": None}
    monkeypatch.setenv(HEADERS_VARIABLE, "Authorization: Bearer a\n\nX-Team:b:c \n")
    assert access(None, None)["headers"] == {"Authorization": "Bearer a", "X-Team": "b:c"}
    found = access(["authorization:Bearer z"], Path("ca.pem"))
    headers = {"X-Team": "b:c", "authorization": "Bearer z"}
    assert found == {"headers": headers, "ca": Path("ca.pem")}
    monkeypatch.setenv("CAPAMESH_KEY", " cm_of_variable \n")
    keys = [access(None, None, *key)["key"] for key in ((), ("cm_of_option",))]
    assert keys == ["cm_of_variable", "cm_of_option"]
    own, key = Path("own.pem"), Path("own.key")
    assert access(None, None, cert=own)["cert"] == own
    assert access(None, None, cert=own, cert_key=key)["cert"] == (own, key)
    with pytest.raises(typer.BadParameter, match="give --cert, too"):
        access(None, None, cert_key=key)
    for text in ("s3cret", ": s3cret", "", "  "):
        with pytest.raises(typer.BadParameter) as caught:
            access([text], None)
        said = "a header is 'NAME: VALUE', for example 'Authorization: Bearer KEY'"
        assert caught.value.message == said


@pytest.mark.parametrize(
    "line",
    [
        "nodes",
        "models",
        "explain m",
        "infer m -i X=1",
        "network show --dir owner --router http://10.0.0.5",
        f"network revoke {PEER} --dir owner --router http://10.0.0.5",
        "network rotate-key --dir owner --router http://10.0.0.5",
        f"node drain {PEER} --dir owner",
        f"node enable {PEER} --dir owner",
        f"circuit {PEER} open --data owner",
    ],
    ids=lambda line: " ".join(line.split()[:2]),
)
def test_command_hands_its_headers_and_authority_to_the_client(
    monkeypatch: pytest.MonkeyPatch, owner: Owner, cli: Cli, line: str
) -> None:
    monkeypatch.chdir(owner.folder.parent)
    OperatorKey.create(owner.folder)
    made: list[dict[str, Any]] = []

    def init(_: Client, url: object, **given: Any) -> None:
        made.append(given)
        raise typer.Exit(9)

    monkeypatch.setattr(Client, "__init__", init)
    header = "Authorization: Bearer s3cret"
    said = cli(line, "--header", header, "--ca", "ca.pem", status=9)
    (given,) = made
    assert given.pop("retries", DEFAULT_RETRIES) == DEFAULT_RETRIES
    assert given == {"headers": {"Authorization": "Bearer s3cret"}, "ca": Path("ca.pem")}
    assert "s3cret" not in said.out + said.err


def test_operators_key_is_sent_to_this_users_own_router_at_its_very_address_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CAPAMESH_KEY", "CAPAMESH_DATA", HEADERS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAPAMESH_HOME", str(tmp_path))
    home = DataDir(tmp_path / "own" / "router")
    home.folder.mkdir(parents=True)
    home.write_status(
        {"http_address": "http://0.0.0.0:8000", "metrics_address": "http://10.0.0.5:9000"}
    )
    OperatorKey.create(home.folder)
    key = (home.folder / KEY_FILE).read_text().strip()

    def sent(router: str, *headers: str) -> str | None:
        return access(list(headers), None, router=router).get("key")

    own = ("http://127.0.0.1:8000", "http://localhost:8000/", "http://10.0.0.5:9000")
    assert [sent(each) for each in own] == [None] * 3  # no process holds the folder
    with (home.folder / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [sent(each) for each in own] == [key] * 3
        for other in (
            *("http://127.0.0.1:8001", "https://127.0.0.1:8000", "http://10.0.0.5:8000"),
            *(
                "http://127.0.0.1:9000",
                "http://127.0.0.1:8000,http://10.0.0.5:8000",
                "http://h:x",
                "",
            ),
        ):
            assert sent(other) is None, other
        assert sent(own[0], "Authorization: Bearer a") is None
        assert access(None, None, "cm_given", router=own[0])["key"] == "cm_given"
        (home.folder / KEY_FILE).chmod(0o644)
        assert sent(own[0]) is None
        monkeypatch.setenv("CAPAMESH_HOME", str(tmp_path / "other"))
        (home.folder / KEY_FILE).chmod(0o600)
        assert sent(own[0]) is None
        monkeypatch.setenv("CAPAMESH_DATA", str(home.folder))
        assert sent(own[0]) == key


def test_header_that_cannot_be_sent_is_an_error_without_its_value(cli: Cli) -> None:
    said = cli("nodes --header", "X-Key: s3cr\u00e9t", status=1)
    assert "the value of the header 'X-Key' is no printable ASCII text" in said.err
    assert "s3cr" not in said.out + said.err


# the join token


def test_pipe_is_not_exposed_whatever_its_mode(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").chmod(0o644)
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDWR), "rb", buffering=0) as pipe:
        assert not is_exposed(pipe)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o604])
def test_token_file_that_others_can_read_is_used_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    file = tmp_path / "my token"
    file.write_text("secret\n")
    file.chmod(mode)
    assert read_token(None, str(file)) == "secret\n"
    warning = (
        f"capamesh: warning: other users of this machine can read the join token in {file}; "
        f"keep them out: chmod 600 '{file}'\n"
    )
    assert capsys.readouterr() == ("", "" if mode == 0o600 else warning)


def test_token_is_that_of_the_line_with_a_warning_or_of_the_variable_or_of_standard_input(
    monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    tokens: list[str | None] = []
    for role, more in (("node", "--models m"), ("router", "")):
        monkeypatch.setattr(
            services, f"run_{role}", lambda settings, _: tokens.append(settings.token)
        )
        line = f"{role} run --data d {more}"
        monkeypatch.setenv("CAPAMESH_TOKEN", "other")  # which does not hide the warning
        said = cli(f"{line} --token secret")
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert "can read the join token in the list of processes" in said.err
        for value in ("other", ""):
            monkeypatch.setenv("CAPAMESH_TOKEN", value)
            assert cli(line).err == ""
            assert "CAPAMESH_TOKEN" not in os.environ
        monkeypatch.setattr(sys, "stdin", io.StringIO("from-input\n"))
        cli(f"{line} --token-file -")
    assert tokens == ["secret", "other", None, "from-input\n"] * 2


def test_token_file_that_holds_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    for file, content in ((empty, b" \n"), (binary, b"\xff\xfe")):
        file.write_bytes(content)
        file.chmod(0o600)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for source, said in (
        (str(tmp_path), f"cannot read the join token from {tmp_path}: Is a directory; write one"),
        ("/absent", "cannot read the join token from /absent"),
        (str(empty), f"{empty} is empty, where a join token was expected"),
        ("-", "standard input is empty, where a join token was expected"),
        (str(binary), "holds no join token, which is one line of ASCII text"),
    ):
        with pytest.raises(ConfigError) as refusal:
            read_token(None, source)
        assert said in refusal.value.message
