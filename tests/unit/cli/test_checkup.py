"""`capamesh doctor`: the facts that it reads, the judgements over them, and all checks together."""

from __future__ import annotations

import datetime as dt
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from capamesh.cli.checkup import diagnosis, gpu_probes, machine_probes
from capamesh.cli.checkup.findings import Finding, State, fail, has_failed, ok, skip, warn
from capamesh.cli.checkup.gpu import LIBRARIES, GpuFact, GpuFacts, check_gpus
from capamesh.cli.checkup.gpu_probes import trial_result
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
from capamesh.cli.checkup.network import Clock, Reach, check_clock, check_reach, check_token
from capamesh.cli.checkup.network_probes import mesh_address, router_address, time_of

if TYPE_CHECKING:
    from .conftest import Cli, Said


OK, WARN, FAIL, SKIP = State.OK, State.WARN, State.FAIL, State.SKIP


def test_checks_are_told_in_order_though_the_first_ends_last_and_one_hangs_or_breaks() -> None:
    may_end, never = threading.Event(), threading.Event()

    def slow() -> tuple[Finding, ...]:
        assert may_end.wait(30.0)
        return (ok("slow", ""),)

    def quick() -> tuple[Finding, ...]:
        may_end.set()
        return (ok("quick", ""),)

    def broken() -> tuple[Finding, ...]:
        raise ZeroDivisionError("by nothing")

    found = diagnosis.made({"slow": slow, "broken": broken, "quick": quick}, 30.0)
    states = [(each.check, each.state) for each in found]
    assert states == [("slow", OK), ("broken", FAIL), ("quick", OK)]
    assert "by nothing" in found[1].seen
    try:
        (found,) = diagnosis.made({"slow": lambda: (ok("slow", str(never.wait())),)}, 0.0)
    finally:
        never.set()
    assert (found.check, found.state) == ("slow", WARN)


def states_in(said: Said) -> dict[str, str]:
    return {each["check"]: each["state"] for each in said.json["checks"]}


def test_doctor_looks_at_ports_folder_and_router(tmp_path: Path, cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # so that nobody else listens there meanwhile
        port = listener.getsockname()[1]
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        line = f"doctor --json --port {port} --router http://{address} --data"
        found = states_in(cli(line, tmp_path, status=1))
    assert found[f"port {port}"] == "warn"
    assert (found["data folder"], found[f"reach {address}"]) == ("ok", "fail")
    assert "port 8000" in found


def test_failure_is_the_exit_status_and_text_that_is_no_token_is_one_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    (tmp_path / "token").write_text("secret-nonsense")
    (tmp_path / "token").chmod(0o600)
    said = cli("doctor --json --token-file", tmp_path / "token", status=1)
    assert "secret-nonsense" not in said.out
    assert ("token", "fail") in states_in(said).items()
    monkeypatch.setattr(diagnosis, "diagnose", lambda _: (ok("a", "\x1b[2Jseen"), warn("b", "")))
    assert "\x1b[2J" not in cli("doctor").out
    monkeypatch.setattr(diagnosis, "diagnose", lambda _: (fail("a", "seen", "do this"),))
    assert "do this" in cli("doctor", status=1).out
    assert "is no URL of a router" in cli("doctor --router 10.0.0.5:8000", status=2).err


GIB = 1 << 30
H100 = GpuFact("NVIDIA H100", 80 * GIB, 79 * GIB, is_partitioned=False)
GPUS = GpuFacts(
    gpus=(H100,),
    driver_version="580.65.06",
    has_hardware=True,
    has_gpu_runtime=True,
    found_libraries=LIBRARIES,
    trial="",
    runtime_version="1.31.1",
)
NO_GPU = replace(GPUS, gpus=(), driver_version="")
WANTED = ("libp2p==0.8.1", "numpy>=2.0", "rich>=14")
TWO = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}


def of(check: str, **facts: Any) -> Finding:
    """Return what a check finds of these facts on a machine where all else is well."""
    return {each.check: each for each in check_gpus(replace(GPUS, **facts))}[check]


def test_gpu_on_which_a_model_runs_is_well_and_so_is_a_machine_without_one() -> None:
    found = {each.check: each.state for each in check_gpus(GPUS)}
    assert found == dict.fromkeys(("gpu", "driver", "mig", "cuda libraries", "cuda provider"), OK)
    for facts, state in ((NO_GPU, FAIL), (replace(NO_GPU, has_hardware=False), OK)):
        assert [(each.check, each.state) for each in check_gpus(facts)] == [("gpu", state)]


def judgements() -> list[tuple[Any, ...]]:
    """Return findings, each with its state, what it has seen and the line that mends it, where there are any."""
    return [
        (of("driver", driver_version="579.99"), FAIL),
        (of("driver", driver_version="580.1"), OK),
        (of("driver", driver_version="1000.2"), OK),
        (of("driver", driver_version=""), WARN),
        (
            of("cuda libraries", found_libraries=LIBRARIES[:-1]),
            FAIL,
            "not found: libcudnn.so.9",
            "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'",
        ),
        (of("mig", gpus=(H100, replace(H100, is_partitioned=True))), WARN, "on for 1 of 2"),
        (of("cuda provider", trial="it should run on CUDA"), FAIL),
        (of("cuda provider", trial=None), SKIP),
        (of("cuda provider", trial=None, has_gpu_runtime=False), FAIL),
        (check_python((3, 10, 9)), FAIL),
        (check_python((3, 11, 0)), OK),
        (check_python((3, 14, 0)), WARN),
        (
            check_packages(WANTED, {"libp2p": "0.7.0", "rich": "15.0.0rc1"}),
            FAIL,
            "libp2p==0.8.1 is wanted, 0.7.0 is there; numpy>=2.0 is wanted, none is there",
            "pip install 'libp2p==0.8.1' 'numpy>=2.0'",
        ),
        (check_packages(("fastecdsa==2.3.2",), {"fastecdsa": "2.3.2+capamesh"}), OK),
        (check_packages(("rich>=14",), {"rich": "of today"}), FAIL),
        (
            check_runtime(TWO, "1.30.0", "onnxruntime-gpu"),
            FAIL,
            "",
            "pip uninstall -y onnxruntime-gpu onnxruntime && "
            "pip install --force-reinstall --no-deps onnxruntime-gpu==1.31.1",
        ),
        (check_runtime({"onnxruntime": "1.31.1"}, "1.31.1", "onnxruntime"), OK),
        (check_runtime({"onnxruntime": "1.31.1"}, "", "onnxruntime"), FAIL),
        (check_runtime({}, "", "onnxruntime"), FAIL),
        (check_folder(Folder("data", "", GIB)), OK),
        (check_folder(Folder("data", "", GIB - 1)), WARN),
        (check_folder(Folder("data", "", (16 << 20) - 1)), FAIL),
        (
            check_folder(Folder("my data; rm x", "this user may not write into /", 9 * GIB)),
            FAIL,
            "",
            "sudo chown -R $(id -u) 'my data; rm x'",
        ),
        (check_memory(GIB, 8 * GIB), OK),
        (check_memory(GIB - 1, 8 * GIB), WARN),
        (check_memory((384 << 20) - 1, 8 * GIB), FAIL),
        (check_port(PortUse(8000, is_free=True)), OK, "free"),
        (check_port(PortUse(8000, is_free=False, user="nginx")), WARN, "in use by nginx"),
        (check_port(PortUse(8000, is_free=False)), WARN, "in use; by whom only root can see"),
        (check_port(PortUse(8000, is_free=False, user="capamesh")), OK, "a member of this"),
        (check_port(PortUse(80, is_free=False, problem="denied")), FAIL, "denied"),
        (check_descriptors(1023), WARN),
        (check_descriptors(1024), OK),
        (check_locale(is_there=True), OK),
        (check_locale(is_there=False), WARN),
        (check_clock(Clock(ahead_s=5.0, is_synchronised=False)), OK, "as the router's"),
        (check_clock(Clock(ahead_s=5.1, is_synchronised=False)), WARN, "5 s ahead of the"),
        (check_clock(Clock(ahead_s=-60.0, is_synchronised=False)), WARN, "60 s behind the"),
        (check_clock(Clock(ahead_s=-61.0, is_synchronised=False)), FAIL, "61 s behind the"),
        (check_clock(Clock(is_synchronised=True)), OK),
        (check_clock(Clock(is_synchronised=False)), WARN),
        (check_clock(Clock(is_synchronised=None)), SKIP),
        (check_token("the join token expired", ""), FAIL),
        (check_token("", "admits a node until tomorrow"), OK, "admits a node until tomorrow"),
        (check_reach(())[0], SKIP),
        (check_reach((Reach("10.0.0.5:8000", ""),))[0], OK),
        (check_reach((Reach("[::1]:4001", "refused"),))[0], FAIL, "", "nc -vz ::1 4001"),
        (check_reach((Reach("$(reboot):1", "no name"),))[0], FAIL, "", "nc -vz '$(reboot)' 1"),
    ]


@pytest.mark.parametrize("at", range(48))
def test_finding_has_its_state_and_names_the_line_that_mends_it(at: int) -> None:
    assert len(judgements()) == 48
    found, state, *more = judgements()[at]
    seen, line = (*more, "", "")[:2]
    assert found.state is state
    assert found.seen.startswith(seen)
    assert found.run == (line or found.run)


def test_last_port_has_the_one_before_it_as_its_neighbour() -> None:
    assert "127.0.0.1:65534" in check_port(PortUse(65_535, is_free=False, user="x")).run
    assert not has_failed((ok("a", ""), warn("b", ""), skip("c", "")))


def test_address_of_a_router_or_of_the_mesh_is_a_host_and_a_port() -> None:
    addresses = {
        "http://127.0.0.1:8000": ("127.0.0.1", 8000),
        "https://router.example/path": ("router.example", 443),
        "http://[::1]:8000": ("::1", 8000),
        **dict.fromkeys(("http://x:99999", "http://[::1", "router:8000", "ftp://x:1", "")),
        "/ip4/10.0.0.5/tcp/4001/p2p/12D3": ("10.0.0.5", 4001),
        "/ip6/::1/tcp/4001": ("::1", 4001),
        "/dns4/router/tcp/4001/p2p/12D3": ("router", 4001),
        **dict.fromkeys(f"/ip4/10.0.0.5/{end}" for end in ("udp/4001/quic", "tcp/0", "tcp/70000")),
        "10.0.0.5:4001": None,
    }
    for text, address in addresses.items():
        read = mesh_address if text.startswith("/") else router_address
        assert read(text) == address


def test_words_of_a_trial_and_of_a_router_are_read() -> None:
    ended = "the trial run ended with status"
    for status, printed, result in (
        (0, '[{"is_good": true, "reason": ""}]', ""),
        (1, '[{"is_good": false, "reason": "no CUDA"}]', "no CUDA"),
        (-11, "", f"{ended} -11"),
        (1, "[]", f"{ended} 1"),
    ):
        assert trial_result(status, printed) == result
    told = dt.datetime(2026, 11, 26, 19, tzinfo=dt.UTC)
    assert time_of("Thu, 26 Nov 2026 19:00:00 GMT") == told
    for header in ("Thu, 26 Nov 2026 19:00:00 -0000", "Thu, 99 Nov 2026 19:00:00 GMT", "", None):
        assert time_of(header) is None


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LINE = "   0: 0100007F:1F40 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"


def fake_processes(root: Path, tcp: str, tcp6: str, commands: dict[int, str]) -> None:
    """Make a `/proc` with these tables of sockets, and a process with a socket for each command."""
    net = root / "proc" / "net"
    net.mkdir(parents=True)
    (net / "tcp").write_text(HEAD + tcp)
    (net / "tcp6").write_text(HEAD + tcp6)
    for pid, command in commands.items():
        folder = root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "fd" / "3").symlink_to(f"socket:[{65 + pid}]")
        (folder / "cmdline").write_text(command)
        (folder / "comm").write_text("python\n")


def test_port_of_a_listener_is_not_free_and_another_is() -> None:
    def is_free_again() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            assert not machine_probes.port_use(port).is_free
        return machine_probes.port_use(port).is_free

    assert any(is_free_again() for _ in range(20))  # another process may have got one meanwhile


def test_folder_that_does_not_exist_is_judged_by_its_parent_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tmp_path / "a" / "b"
    found = machine_probes.folder_facts(wanted)
    assert (found.problem, found.free_bytes > 0, list(tmp_path.iterdir())) == ("", True, [])
    (tmp_path / "a").write_text("")
    assert machine_probes.folder_facts(wanted).problem.endswith("a is no folder")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert "may not write" in machine_probes.folder_facts(tmp_path).problem


def test_hardware_is_a_display_device_of_nvidia(tmp_path: Path) -> None:
    for name, vendor, kind, has in (
        ("0000:00:01.0", "0x8086", "0x030000", False),
        ("0000:00:02.0", "0x10de", "0x020000", False),
        ("0000:00:03.0", "0x10de", "0x030200", True),
    ):
        folder = tmp_path / "sys/bus/pci/devices" / name
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "class").write_text(kind + "\n")
        assert gpu_probes.has_hardware(tmp_path) is has


def test_libraries_are_found_in_packages_of_nvidia(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nvidia" / "cudnn" / "lib"
    folder.mkdir(parents=True)
    (folder / LIBRARIES[-1]).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gpu_probes, "_known_to_the_loader", set)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert LIBRARIES[-1] in set(gpu_probes.found_libraries())


@pytest.mark.parametrize(
    ("tables", "command", "listener"),
    [
        ((LINE.format(state="0A", inode=77), ""), "python\0-m\0http.server\0", "python (pid 12)"),
        (
            ("", LINE.format(state="0A", inode=77)),
            "/usr/bin/python\0/opt/bin/capamesh\0router\0run\0",
            "capamesh (pid 12)",
        ),
        ((LINE.format(state="01", inode=77), ""), "curl\0", ""),  # a connection
    ],
)
def test_listener_is_found_by_its_socket(
    tmp_path: Path, tables: tuple[str, str], command: str, listener: str
) -> None:
    fake_processes(tmp_path, *tables, {11: "nginx\0", 12: command})
    assert machine_probes.listener_of(8000, tmp_path) == listener
