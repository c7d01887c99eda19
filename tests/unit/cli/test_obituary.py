from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from capamesh.cli.member import LOG_FILE, Member

ERROR = "capamesh: error: "


def exit_report(folder: Path, code: int, log: str) -> str:
    (folder / LOG_FILE).write_text(log)
    process = SimpleNamespace(pid=7, returncode=code)
    return Member("router", folder, process, 0).exit_report()  # type: ignore[arg-type]  # it has ended


def test_process_that_said_why_it_ended_is_quoted_and_no_file_is_named(tmp_path: Path) -> None:
    log = '{"event": "mesh_ready"}\n' + f"{ERROR}the port is taken\n"
    assert (
        exit_report(tmp_path, 1, log)
        == "router (pid 7) ended with exit status 1: the port is taken"
    )
    log += f"{ERROR}and another thing\n"
    assert exit_report(tmp_path, 1, log) == (
        "router (pid 7) ended with exit status 1: the port is taken; and another thing"
    )


@pytest.mark.parametrize(
    ("code", "how", "log"),
    [
        (-9, "signal 9", f"{ERROR}of the run before"),
        (0, "exit status 0", f"{ERROR}of the run before"),
        (1, "exit status 1", f"{ERROR}of the run before\nTraceback: a bug"),
    ],
)
def test_log_of_a_process_that_did_not_say_why_is_named_and_shown(
    tmp_path: Path, code: int, how: str, log: str
) -> None:
    assert exit_report(tmp_path, code, log) == (
        f"router (pid 7) ended with {how}; its log, {tmp_path / LOG_FILE}, ends with:\n{log}"
    )
