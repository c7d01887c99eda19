"""All checks together: their order, their time, and what comes of one that breaks."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from capamesh.cli.__main__ import run
from capamesh.cli.checkup import diagnosis
from capamesh.cli.checkup.findings import Finding, State, fail, ok


def test_checks_are_told_in_order_though_the_first_ends_last() -> None:
    may_end = threading.Event()

    def slow() -> tuple[Finding, ...]:
        assert may_end.wait(30.0)
        return (ok("slow", ""),)

    def quick() -> tuple[Finding, ...]:
        may_end.set()
        return (ok("quick", ""),)

    assert [each.check for each in diagnosis.made({"slow": slow, "quick": quick}, 30.0)] == [
        "slow",
        "quick",
    ]


def test_check_that_hangs_is_told_as_late() -> None:
    never = threading.Event()
    try:
        (found,) = diagnosis.made({"slow": lambda: (ok("slow", str(never.wait())),)}, 0.0)
    finally:
        never.set()
    assert (found.check, found.state) == ("slow", State.WARN)


def test_check_that_breaks_hides_no_other() -> None:
    def broken() -> tuple[Finding, ...]:
        raise ZeroDivisionError("by nothing")

    found = diagnosis.made({"broken": broken, "good": lambda: (ok("good", ""),)}, 30.0)
    assert [(each.check, each.state) for each in found] == [
        ("broken", State.FAIL),
        ("good", State.OK),
    ]
    assert "by nothing" in found[0].seen


def asked_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str]]:
    status = run(["doctor", "--json", *arguments])
    checks = json.loads(capsys.readouterr().out)["checks"]
    return status, {each["check"]: each["state"] for each in checks}


def test_doctor_looks_at_ports_folder_and_router(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        _, found = asked_of(capsys, "--data", str(tmp_path), "--port", str(port))
    assert found[f"port {port}"] == "warn"
    assert (found["data folder"], found["network"]) == ("ok", "skip")
    assert "port 8000" in found


def test_router_that_nobody_runs_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # so that nobody else listens there meanwhile
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        status, found = asked_of(capsys, "--data", str(tmp_path), "--router", f"http://{address}")
    assert (status, found[f"reach {address}"]) == (1, "fail")


def test_exit_status_is_0_without_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnosis, "diagnose", lambda _: (ok("a", "\x1b[2Jseen"),))
    assert run(["doctor"]) == 0
    assert "\x1b[2J" not in capsys.readouterr().out
    monkeypatch.setattr(diagnosis, "diagnose", lambda _: (fail("a", "seen", "do this"),))
    assert run(["doctor"]) == 1
    assert "do this" in capsys.readouterr().out


def test_text_that_is_no_token_is_a_failure_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("secret-nonsense")
    (tmp_path / "token").chmod(0o600)
    assert run(["doctor", "--json", "--token-file", str(tmp_path / "token")]) == 1
    printed = capsys.readouterr().out
    assert "secret-nonsense" not in printed
    found = {each["check"]: each["state"] for each in json.loads(printed)["checks"]}
    assert ("token", "fail") in found.items()
    assert run(["doctor", "--router", "10.0.0.5:8000"]) == 2
    assert "is no URL of a router" in capsys.readouterr().err
