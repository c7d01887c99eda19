"""What a process that closed itself in can still do, and what not any more. Each in a process of its own."""

from __future__ import annotations

import json
import platform
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from capamesh.node.worker import sandbox
from capamesh.protocol import sandbox as protocol_sandbox
from capamesh.protocol.sandbox import landlock, seccomp

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="its parts are Linux's")
LANDLOCK_ONLY = pytest.mark.skipif(
    not landlock.version(), reason="this kernel has no Landlock, or it is turned off"
)
SECCOMP_ONLY = pytest.mark.skipif(
    sys.platform != "linux" or not seccomp.program(platform.machine(), 1, ()),
    reason="calls are known of x86-64 and aarch64 Linux alone",
)

CLOSED = """
import json, os, resource, socket, subprocess, sys, threading
from pathlib import Path
from capamesh.node.worker import sandbox

home = Path(sys.argv[1])
port = int(sys.argv[2])
how = json.loads(sys.argv[3])
holds = sandbox.close(
    models_folder=home / "models",
    cache_folder=home / "data" / "cache",
    secret=home / "data" / "identity.key",
    port=0,
    **{"is_gpu": False, "is_dialing": False, **how},
)

def went(what):
    try:
        return repr(what())
    except BaseException as error:
        return type(error).__name__

def in_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(went((home / "data" / "identity.key").read_text)))
    thread.start()
    thread.join()
    return seen[0]

def listen():
    with socket.create_server(("127.0.0.1", 0)):
        return True

def connect():
    with socket.create_connection(("127.0.0.1", port)):
        return True

def in_memory():
    with os.fdopen(os.memfd_create("x"), "wb") as file:  # by which OpenSSL is given a renewed chain
        file.write(b"there")
        file.flush()
        return Path(f"/proc/self/fd/{file.fileno()}").read_text()

print(json.dumps({
    "holds": holds,
    "in memory": went(in_memory),
    "key": went((home / "data" / "identity.key").read_text),
    "key in a thread": in_thread(),
    "beside": went((home / "data" / "chain.pem").read_text),
    "model": went((home / "models" / "m").read_text),
    "to models": went(lambda: (home / "models" / "m").write_text("x")),
    "cache": went(lambda: (home / "data" / "cache" / "x").write_text("x")),
    "out of the cache": went(lambda: (home / "data" / "cache" / "x").rename(home / "data" / "x")),
    "shadow": went(lambda: Path("/etc/shadow").read_text()),
    "parent": went(lambda: Path(f"/proc/{os.getppid()}/environ").read_text()),
    "memory": went(lambda: Path("/proc/self/statm").read_text() != ""),
    "library": went(lambda: __import__("onnxruntime").__name__),
    "program": went(lambda: subprocess.run(["/bin/true"]).returncode),
    "process": went(os.fork),
    "packets": went(lambda: socket.socket(17, 3)),
    "listen": went(listen),
    "connect": went(connect),
    "signal": went(lambda: os.kill(os.getppid(), 0)),
    "own signal": went(lambda: os.kill(os.getpid(), 0)),
    "limit of another": went(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)),
    "own limit": went(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0),
    "unix socket": went(lambda: socket.socket(socket.AF_UNIX).close()),
    "pair": went(lambda: [one.close() for one in socket.socketpair()]),
    "root": went(lambda: os.setuid(0) if os.getuid() else os.chown(home / "models" / "m", 1, 1)),
}))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "data" / "cache").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    for name in ("data/identity.key", "data/chain.pem", "models/m"):
        (tmp_path / name).write_text("there")
    return tmp_path


def closed(home: Path, port: int = 0, program: str = CLOSED, **how: Any) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(home), str(port), json.dumps(how)],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "OPENBLAS_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        },
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_no_folder_that_the_data_folder_is_in_is_granted_whole(tmp_path: Path) -> None:
    private = tmp_path / "opt/x/data"
    for name in ("opt/x/data/cache", "opt/x/lib", "opt/other", "usr"):
        (tmp_path / name).mkdir(parents=True)
    granted = protocol_sandbox.apart_from(private, (tmp_path / "opt", tmp_path / "usr", private))
    assert set(granted) == {tmp_path / "opt/other", tmp_path / "opt/x/lib", tmp_path / "usr"}


@LANDLOCK_ONLY
@SECCOMP_ONLY
def test_closed_process_does_what_a_worker_does_and_nothing_else(home: Path) -> None:
    found = closed(home)
    assert (
        found["holds"] == f"landlock {landlock.version()}, no capabilities, no_new_privs, seccomp"
    )
    refused = "PermissionError"
    for what in ("key", "key in a thread", "beside", "to models", "out of the cache"):
        assert found[what] in {refused, repr(refused)}, what
    for what in (
        *("shadow", "parent", "program", "process", "packets", "root"),
        *("signal", "limit of another", "unix socket"),
    ):
        assert found[what] == refused, what
    assert (found["model"], found["cache"], found["memory"]) == ("'there'", "1", "True")
    assert found["in memory"] == "'there'"
    assert (found["own signal"], found["own limit"], found["pair"]) == (
        "None",
        "True",
        "[None, None]",
    )
    assert (found["library"], found["listen"]) == ("'onnxruntime'", "True")


@LANDLOCK_ONLY
@pytest.mark.parametrize("is_dialing", [False, True])
def test_connections_are_opened_only_by_a_node_that_dials(home: Path, is_dialing: bool) -> None:
    if landlock.version() < 4:
        pytest.skip("Landlock knows ports from version 4 on")
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = closed(home, server.getsockname()[1], is_dialing=is_dialing)
    assert found["connect"] == ("True" if is_dialing else "PermissionError")


def test_gpu_node_whose_driver_is_not_complete_is_left_open_and_says_why(home: Path) -> None:
    holds = sandbox.close(
        models_folder=home,
        cache_folder=home,
        secret=home / "key",
        is_gpu=True,
        port=0,
        is_dialing=False,
        uvm=Path("/nowhere"),
    )
    assert holds == (
        "none: CUDA starts a program that makes /nowhere, which is missing; it holds from the next start on"
    )


@LINUX_ONLY
def test_sandbox_reports_what_the_kernel_lacks_and_the_rest_holds(home: Path) -> None:
    code = CLOSED.replace(
        "from capamesh.node.worker import sandbox\n",
        "from capamesh.node.worker import sandbox\n"
        "from capamesh.protocol.sandbox import landlock\n"
        "landlock.version = lambda: 0\n",
    )
    found = closed(home, program=code)
    assert "landlock: this kernel has none, or it is turned off" in found["holds"]
    assert "the member's key can be read" in found["holds"]
    assert "no_new_privs" in found["holds"]
    assert found["key"] == "'there'"


@pytest.mark.parametrize(
    "families", [(), seccomp.NET_FAMILIES, (*seccomp.NET_FAMILIES, seccomp.UNIX)]
)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_ends_within_it(machine: str, families: tuple[int, ...]) -> None:
    code = list(struct.iter_unpack("<HBBI", seccomp.program(machine, 1234, families)))
    assert 0 < len(code) < 4096  # BPF_MAXINSNS
    for at, (kind, if_true, if_false, _) in enumerate(code):
        if kind & 0x07 == 0x05:  # BPF_JMP
            assert at + 1 + max(if_true, if_false) < len(code)
    assert code[-1] == (0x06, 0, 0, 0x7FFF_0000)


def test_machine_that_is_not_known_has_no_filter() -> None:
    assert seccomp.program("riscv64", 1234, ()) == b""
