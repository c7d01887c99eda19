"""The judgements of a machine's software and of what it has left, over made-up facts."""

from __future__ import annotations

import pytest

from capamesh.cli.checkup.findings import State, has_failed, ok, skip, warn
from capamesh.cli.checkup.machine import (
    Folder,
    PortUse,
    check_descriptors,
    check_folder,
    check_locale,
    check_memory,
    check_packages,
    check_port,
    check_python,
    check_runtime,
)

GIB = 1 << 30


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 10, 9), State.FAIL),
        ((3, 11, 0), State.OK),
        ((3, 14, 0), State.WARN),
    ],
)
def test_python_is_judged_by_what_was_tried(version: tuple[int, int, int], state: State) -> None:
    assert check_python(version).state is state


def test_packages_that_are_missing_or_of_another_version_are_named_with_the_line() -> None:
    wanted = ("libp2p==0.8.1", "numpy>=2.0", "rich>=14")
    found = check_packages(wanted, {"libp2p": "0.7.0", "rich": "15.0.0"})
    assert (found.state, found.seen, found.run) == (
        State.FAIL,
        "libp2p==0.8.1 is wanted, 0.7.0 is there; numpy>=2.0 is wanted, none is there",
        "pip install 'libp2p==0.8.1' 'numpy>=2.0'",
    )
    installed = {"fastecdsa": "2.3.2+capamesh", "rich": "15.0.0rc1"}
    assert check_packages(("fastecdsa==2.3.2", "rich>=14"), installed).state is State.OK
    assert check_packages(("rich>=14",), {"rich": "of today"}).state is State.FAIL


def test_two_runtimes_fight_over_one_name() -> None:
    found = check_runtime(
        {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}, "1.30.0", "onnxruntime-gpu"
    )
    assert (found.state, found.run) == (
        State.FAIL,
        "pip uninstall -y onnxruntime-gpu onnxruntime && "
        "pip install --force-reinstall --no-deps onnxruntime-gpu==1.31.1",
    )


@pytest.mark.parametrize(
    ("installed", "module", "state"),
    [
        ({"onnxruntime": "1.31.1"}, "1.31.1", State.OK),
        ({"onnxruntime": "1.31.1"}, "", State.FAIL),
        ({}, "", State.FAIL),
    ],
)
def test_runtime_is_one_that_can_be_read_in(
    installed: dict[str, str], module: str, state: State
) -> None:
    assert check_runtime(installed, module, "onnxruntime").state is state


@pytest.mark.parametrize(
    ("free_bytes", "state"),
    [(GIB, State.OK), (GIB - 1, State.WARN), ((16 << 20) - 1, State.FAIL)],
)
def test_folder_is_judged_by_its_room(free_bytes: int, state: State) -> None:
    assert check_folder(Folder("data", "", free_bytes)).state is state


def test_folder_that_cannot_be_written_is_quoted_in_the_line() -> None:
    found = check_folder(Folder("my data; rm x", "this user may not write into /", 9 * GIB))
    assert (found.state, found.run) == (
        State.FAIL,
        "sudo chown -R $(id -u) 'my data; rm x'",
    )


@pytest.mark.parametrize(
    ("free_bytes", "state"),
    [(GIB, State.OK), (GIB - 1, State.WARN), ((384 << 20) - 1, State.FAIL)],
)
def test_memory_is_judged_by_what_a_node_takes(free_bytes: int, state: State) -> None:
    assert check_memory(free_bytes, 8 * GIB).state is state


def test_warnings_and_skipped_checks_are_no_failures() -> None:
    assert not has_failed((ok("a", ""), warn("b", ""), skip("c", "")))
    assert has_failed((ok("a", ""), check_descriptors(1024), check_python((3, 9, 0))))


@pytest.mark.parametrize(
    ("use", "state", "seen"),
    [
        (PortUse(8000, is_free=True), State.OK, "free"),
        (PortUse(8000, is_free=False, user="nginx (pid 7)"), State.WARN, "in use by nginx (pid 7)"),
        (PortUse(8000, is_free=False), State.WARN, "in use; by whom only root can see"),
        (
            PortUse(8000, is_free=False, user="capamesh (pid 9)"),
            State.OK,
            "a member of this machine",
        ),
        (PortUse(80, is_free=False, problem="Permission denied"), State.FAIL, "Permission denied"),
    ],
)
def test_port_is_free_or_used_by_somebody(use: PortUse, state: State, seen: str) -> None:
    found = check_port(use)
    assert found.state is state
    assert found.seen.startswith(seen)


def test_few_descriptors_and_a_locale_that_is_missing_are_told() -> None:
    assert [check_descriptors(limit).state for limit in (1023, 1024)] == [State.WARN, State.OK]
    assert [check_locale(is_there=each).state for each in (True, False)] == [State.OK, State.WARN]
    assert "127.0.0.1:65534" in check_port(PortUse(65_535, is_free=False, user="x")).run
