"""The commands of docs/how-to/expose-a-router.md, at a router with two workers that speaks TLS."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import numpy as np
from clusters import until_all_know
from patience import until

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to/expose-a-router.md").read_text()
LIMIT_S = 120.0
CONNECTIONS = 16
"""Of so many fresh connections some come to each worker, but for one time in fifty or so."""


def step_with(words: str) -> str:
    """Return the page's only line of shell, or program, that has the words."""
    lines = re.findall(r"^ {4}(.*)$", PAGE, re.MULTILINE)
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found: str
    (found,) = (step for step in [*lines, *programs] if words in step)
    return found


async def follow(step: str, folder: Path, url: str = "") -> str:
    """Do one step in a folder, at the router of `url`; return what it printed."""

    def runs() -> str:
        text = step.replace("https://localhost:8443", url)
        program = [sys.executable, "-c", text] if "import" in text else ["bash", "-euc", text]
        commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            program,
            cwd=folder,
            env={**os.environ, "PATH": commands},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert (step, done.returncode) == (step, 0), done.stderr + done.stdout
        return done.stdout

    return await asyncio.to_thread(runs)


def is_shown(port: int, trusted: Path) -> bool:
    """Return whether a fresh connection is shown a certificate that is trusted."""
    context = ssl.create_default_context(cafile=trusted)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), LIMIT_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost"),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return False


async def test_commands_of_the_page_work(built_models: Path, tmp_path: Path) -> None:
    make = step_with("openssl")
    await follow(make, tmp_path)
    certificate, key = tmp_path / "router.pem", tmp_path / "router.key"
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--workers", "2")
    cluster = LocalCluster(tmp_path / "cluster", built_models, 1, router_options=options)
    async with cluster:
        port = int(cluster.http_url.rpartition(":")[2])
        assert cluster.http_url == f"https://127.0.0.1:{port}"
        url = f"https://localhost:{port}"
        await until_all_know(cluster, "digits")
        async with AsyncClient(url, ca=certificate) as client:
            assert await client.is_ready("digits")
        keys = step_with("capamesh keys create")
        await follow(keys.replace("my-network/router", str(cluster.router.data_folder)), tmp_path)
        np.save(tmp_path / "image.npy", np.zeros((1, 64), np.float32))
        assert '"ready": true' in await follow(step_with("curl --cacert"), tmp_path, url)
        assert "label" in await follow(step_with("capamesh infer"), tmp_path, url)
        assert "digits" in await follow(step_with("import Client\n"), tmp_path, url)

        before = tmp_path / "before.pem"
        before.write_bytes(certificate.read_bytes())
        await follow(make, tmp_path)  # writes the key first: for a moment they do not fit

        def have_reloaded() -> bool:
            """Whether both workers have said so: one that looks later may get none of so many connections."""
            said = r'"worker": (\d+).*"event": "certificate_reloaded"'
            return set(re.findall(said, cluster.router.log_file.read_text())) == {"1", "2"}

        await until(have_reloaded)
        assert all(
            [await asyncio.to_thread(is_shown, port, certificate) for _ in range(CONNECTIONS)]
        )
        assert not any(
            [await asyncio.to_thread(is_shown, port, before) for _ in range(CONNECTIONS)]
        )
