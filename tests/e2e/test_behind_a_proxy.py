"""The configurations of docs/how-to/behind-a-proxy.md, as they stand there, in front of a real network."""

from __future__ import annotations

import getpass
import http.client
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from certificates import Authority
from free_ports import free_port

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient, Client
from capamesh.protocol.errors import CapameshError

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to/behind-a-proxy.md").read_text()
KEY = "8c1f0f5a3b7d49f2"
KNOWN = {"Authorization": f"Bearer {KEY}"}
LIMIT_S = 30.0
MIB = 2**20
PROXIES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin") is None,
            reason=f"{name} is not installed: apt-get install {name}",
        ),
    )
    for name in ("nginx", "caddy")
]

pytestmark = pytest.mark.asyncio(loop_scope="session")


def block(language: str) -> str:
    """Return the page's only block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, router: str) -> list[str]:
    """Write the page's configuration for a port; return the command that runs it."""
    certificate, key = Authority(folder).issue("localhost")
    (keys,) = re.findall(r'^```\n("Bearer .*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    (folder / "keys").write_text(keys)
    site = replaced(
        block("nginx"),
        {
            "/etc/nginx/capamesh.keys": str(folder / "keys"),
            "/etc/nginx/capamesh.pem": str(certificate),
            "/etc/nginx/capamesh.key": str(key),
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "server 127.0.0.1:8000": f"server {router}",
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    file = folder / "nginx.conf"
    file.write_text(
        f"user {getpass.getuser()};\npid {folder / 'pid'};\nerror_log {folder / 'log'};\ndaemon off;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{site}\n}}\n"
    )
    return [
        str(shutil.which("nginx", path="/usr/sbin:/usr/bin")),
        "-c",
        str(file),
        "-p",
        str(folder),
    ]


def caddy(folder: Path, port: int, router: str) -> list[str]:
    """Write the page's configuration for a port; return the command that runs it."""
    certificate, key = Authority(folder).issue("localhost")
    site = replaced(
        block("caddy"),
        {
            "capamesh.example.org {": f"https://localhost:{port} {{\n\ttls {certificate} {key}",
            "127.0.0.1:8000": router,
        },
    )
    file = folder / "Caddyfile"
    file.write_text("{\n\tadmin off\n\tauto_https off\n}\n" + site)
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]


@contextmanager
def running(name: str, folder: Path, router: str) -> Iterator[int]:
    """Run the proxy in front of a router, HOST:PORT; yield its port."""
    port = free_port()
    command = {"nginx": nginx, "caddy": caddy}[name](folder, port, router)
    environment = {
        "CAPAMESH_KEY": KEY,
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "PATH": "/usr/bin",
    }
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            until_s = time.monotonic() + LIMIT_S
            while process.poll() is None and time.monotonic() < until_s:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            assert process.poll() is None, (folder / "said").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(LIMIT_S)


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, cluster: LocalCluster, tmp_path: Path) -> Iterator[int]:
    """Return the port of a proxy on `localhost`; who signed its certificate is in `tmp_path`."""
    with running(request.param, tmp_path, cluster.http_url.removeprefix("http://")) as port:
        yield port


def status(port: int, ca: Path, path: str, headers: dict[str, str], body: bytes = b"") -> int:
    """Return the status of an answer, whatever its body."""
    context = ssl.create_default_context(cafile=ca)
    connection = http.client.HTTPSConnection("localhost", port, timeout=LIMIT_S, context=context)
    try:
        connection.request("POST" if body else "GET", path, body or None, headers)
        return connection.getresponse().status
    finally:
        connection.close()


async def test_client_with_a_key_gets_what_the_router_says(
    proxy: int, cluster: LocalCluster, tmp_path: Path
) -> None:
    ca, url = tmp_path / "authority.pem", f"https://localhost:{proxy}"
    row = np.zeros((1, 64), np.float32)
    async with AsyncClient(cluster.http_url) as direct:
        expected = (await direct.infer("digits", {"X": row}))["label"]
    with Client(url, headers=KNOWN, ca=ca) as client:
        assert np.array_equal(client.infer("digits", {"X": row})["label"], expected)
        large = np.zeros((60_000, 64), np.float32)  # 15 MiB: more than nginx keeps in memory
        assert len(client.infer("digits", {"X": large})["label"]) == len(large)


async def test_client_without_the_right_key_gets_nothing(proxy: int, tmp_path: Path) -> None:
    ca, url = tmp_path / "authority.pem", f"https://localhost:{proxy}"
    for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": KEY}):
        assert status(proxy, ca, "/v2", headers) == 401
        with Client(url, headers=headers, ca=ca) as client, pytest.raises(CapameshError):
            client.models()
    assert status(proxy, ca, "/v2", KNOWN) == 200


@pytest.mark.parametrize("proxy", PROXIES[:1], indirect=True)
async def test_nginx_refuses_a_body_that_is_too_large_by_its_head(
    proxy: int, tmp_path: Path
) -> None:
    ca = tmp_path / "authority.pem"
    declared = KNOWN | {"Content-Length": str(65 * MIB)}
    assert status(proxy, ca, "/v2/models/digits/infer", declared, b" ") == 413


async def test_events_of_the_page_come_through_at_once(proxy: int, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=tmp_path / "authority.pem")
    connection = http.client.HTTPSConnection("localhost", proxy, timeout=LIMIT_S, context=context)
    try:
        connection.request("GET", "/v1/page/changes?after=0", headers=KNOWN)
        answer = connection.getresponse()
        assert answer.getheader("Content-Type", "").startswith("text/event-stream")
        assert answer.readline().startswith((b"event:", b"id:", b"retry:", b":"))
    finally:
        connection.close()
