"""The libraries that no process of a running node or router reads in: each costs all of them memory and a slower start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPORT = "print(*{name.partition('.')[0] for name in sys.modules if sys.modules[name] is not None})"
NODE = f"""
import sys, uvloop
from capamesh.cli.__main__ import run
uvloop.run = lambda serving: (serving.close(), {REPORT})
sys.exit(run(["node", "run", "--data", "data", "--models", "."]))
"""
ROUTER = NODE.replace('"node", "run"', '"router", "run"').replace(', "--models", "."', "")
WORKER = f"""
import sys
import capamesh.node.worker.__main__
from capamesh.protocol.quick_imports import quick_imports
with quick_imports():
    import capamesh.node.contract.messages, capamesh.node.worker.opening, capamesh.node.worker.process
{REPORT}
"""
MESH = f"""
import runpy, sys, trio
trio.run = lambda serving, descriptor: {REPORT}
sys.argv = ["mesh", "--channel-fd", "3"]
runpy.run_module("capamesh.protocol.mesh", run_name="__main__")
"""
COLOURS = {"pygments", "greenlet"}
MESH_ONLY = {"libp2p", "multiaddr", "trio"}
OTHER_TRANSPORTS = {"aioquic", "pylsqpack", "trio_websocket", "wsproto"}
OTHER_DISCOVERY = {"zeroconf", "miniupnpc", "dns", "httpx", "requests", "urllib3"}
OTHER_SECURITY = {"fastecdsa", "service_identity", "OpenSSL", "sqlite3"}
CASES = {
    "agent": (
        NODE,
        COLOURS | MESH_ONLY | {"numpy", "aiohttp", "prometheus_client", "onnxruntime", "google"},
    ),
    "router": (ROUTER, COLOURS | MESH_ONLY | {"onnxruntime", "onnx", "pynvml"}),
    "worker": (
        WORKER,
        COLOURS | MESH_ONLY | {"aiohttp", "prometheus_client", "typer", "onnx"},
    ),
    "mesh": (
        MESH,
        COLOURS
        | OTHER_TRANSPORTS
        | OTHER_DISCOVERY
        | OTHER_SECURITY
        | {"numpy", "aiohttp", "uvloop", "typer", "onnxruntime"},
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_process_reads_in_no_library_that_it_does_not_use(name: str, tmp_path: Path) -> None:
    script, unused = CASES[name]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    read = set(done.stdout.split())
    assert "capamesh" in read
    assert read & unused == set()
