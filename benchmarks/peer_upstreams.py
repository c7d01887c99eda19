"""The servers behind the routers that are compared: two of each kind. IO: processes, files.

HTTP upstreams answer with fixed bytes, over plain TCP or with certificates on both sides; link upstreams are members
of a network that do the same over links. Both are Python on uvloop and do next to nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from processes import POLL_S, START_LIMIT_S, running

from capamesh.cli.local_cluster import LocalCluster, is_routable
from capamesh.client import AsyncClient

HERE = Path(__file__).parent / "peers"
COUNT = 2
LIFE = dt.timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as its client got it."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def write_answers(replies: Mapping[str, Reply], folder: Path) -> Path:
    """Write what HTTP upstreams answer, by a part of the path; return the file."""
    entries: dict[str, dict[str, object]] = {}
    for number, (part, reply) in enumerate(replies.items()):
        body = folder / f"answer-{number}"
        body.write_bytes(reply.body)
        entries[part] = {"fields": dict(reply.fields), "body": str(body)}
    file = folder / "answers.json"
    file.write_text(json.dumps(entries))
    return file


@asynccontextmanager
async def http_upstreams(
    answers: Path, folder: Path, certificates: Path | None = None
) -> AsyncIterator[list[int]]:
    """Run the HTTP upstreams; give their ports. With `certificates` they speak TLS."""
    tls = () if certificates is None else (str(certificates),)
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for number in range(COUNT):
            log = folder / f"upstream-{number}{'-tls' if tls else ''}.log"

            async def has_port(log: Path = log) -> bool:
                return _first_line(log).isdigit()

            command = (sys.executable, str(HERE / "http_upstream.py"), str(answers), *tls)
            await stack.enter_async_context(running(command, {}, log, has_port))
            ports.append(int(_first_line(log)))
        yield ports


@asynccontextmanager
async def link_upstreams(
    cluster: LocalCluster, folder: Path, models: Collection[str]
) -> AsyncIterator[None]:
    """Run the link upstreams as members of a cluster without nodes; enter the block once its router can use them."""
    token = folder / "upstreams.token"
    token.write_text(f"{cluster.join_token().encode()}\n")
    async with AsyncExitStack() as stack:

        async def is_started() -> bool:
            return True

        for number in range(COUNT):
            home = folder / f"link-upstream-{number}"
            command = (sys.executable, str(HERE / "link_upstream.py"), str(token), str(home))
            log = folder / f"{home.name}.log"
            await stack.enter_async_context(running(command, {}, log, is_started))
        client = await stack.enter_async_context(AsyncClient(cluster.http_url))
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while True:
                    nodes = await client.nodes()
                    if sum(is_routable(node, models) for node in nodes) >= COUNT:
                        break
                    await asyncio.sleep(POLL_S)
        except TimeoutError as exc:
            raise SystemExit(f"the link upstreams are not routable: see {folder}") from exc
        yield


def _first_line(file: Path) -> str:
    return file.read_text(errors="replace").partition("\n")[0]


def make_certificates(folder: Path) -> Path:
    """Write an authority, and a server's and a client's certificate of 127.0.0.1 with their keys; return the folder."""
    folder.mkdir()
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("authority", authority_key, "authority", authority_key)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, "authority", authority_key)
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    return folder


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"benchmark {name}")])
