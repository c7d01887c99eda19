"""Measures what a request costs over gRPC, and over HTTP with binary tensors, plain and by TLS, beside an empty server of gRPC.

`python benchmarks/wires.py [--rounds 3] [--seconds 3]`; needs h2load, which is the client of all. The two requests of
`overhead.py`. A router and a node each for plain and for TLS, loaded in turns. gRPC once with all requests on one connection,
as its clients do, and once with one on each, as HTTP has them. The empty server is grpcio's asyncio, and does not read
what it gets. The CPU of the server's process is what a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import ipaddress
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from empty_grpc import PATH
from h2load import load, require_h2load
from machine import cpu_s, keep
from overhead import Case, build_picture_model
from rich.console import Console
from rich.table import Table

from capamesh.cli.local_cluster import LocalCluster
from capamesh.router.grpc.messages import CLASSES

SEED = 20261127
IN_FLIGHT = {"1 KiB": (1, 32), "600 KB": (1, 8)}
HTTP, ONE, EACH = "HTTP", "gRPC, one connection", "gRPC, one each"
BY_TLS = ", TLS"
EMPTY = "empty grpcio.aio, one connection"
BARS = {"1 KiB": 1.0, "600 KB": 0.8}
"""The least that gRPC's requests a second on one connection may be of HTTP's, with the most in flight."""


@dataclass(frozen=True, slots=True)
class Server:
    """A process that is loaded."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The figures of one run."""

    per_second: float
    cpu_us: float
    """The CPU time of the server's process for a request, in microseconds."""


def message_of(case: Case) -> bytes:
    """Return the request as gRPC sends it."""
    described = {"name": case.input_name, "datatype": "FP32", "shape": case.array.shape}
    message = CLASSES["ModelInferRequest"](
        model_name=case.model, inputs=[described], raw_input_contents=[case.array.tobytes()]
    ).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def certificate_into(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of this machine, which is its own authority, and its key; return the files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "router.pem", folder / "router.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private


@asynccontextmanager
async def empty_server() -> AsyncIterator[Server]:
    """Run the empty server of gRPC."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, Path(__file__).with_name("empty_grpc.py"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        port = int(await process.stdout.readline())
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        await process.wait()


async def seen_of(
    server: Server, case: Case, seconds: int, *, connections: int, in_flight: int, is_grpc: bool
) -> Seen:
    """Load a server over one wire."""
    if is_grpc:
        url, body = f"{server.url}{PATH}", message_of(case)
        headers = {"content-type": "application/grpc", "te": "trailers"}
    else:
        url = f"{server.url}/v2/models/{case.model}/infer"
        body, header_length = case.body()
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(header_length),
        }
    before_s = cpu_s(server.pid)
    found = await load(
        url,
        body,
        headers,
        is_http1=not is_grpc,
        connections=connections,
        in_flight=in_flight,
        seconds=seconds,
    )
    return Seen(found.per_second, (cpu_s(server.pid) - before_s) / found.answered * 1e6)


async def runs(
    routers: dict[str, Server], empty: Server, case: Case, count: int, seconds: int
) -> dict[str, Seen]:
    """Load each wire in turn, with so many requests in flight."""
    found = {}
    for suffix, router in routers.items():
        found[HTTP + suffix] = await seen_of(
            router, case, seconds, connections=count, in_flight=1, is_grpc=False
        )
        found[ONE + suffix] = await seen_of(
            router, case, seconds, connections=1, in_flight=count, is_grpc=True
        )
        found[EACH + suffix] = await seen_of(
            router, case, seconds, connections=count, in_flight=1, is_grpc=True
        )
    found[EMPTY] = await seen_of(empty, case, seconds, connections=1, in_flight=count, is_grpc=True)
    return found


def answered_by(router: Server) -> int:
    """Return how many requests a router has answered well."""
    stats = httpx.get(f"{router.url}/v2/models/stats").raise_for_status().json()
    return sum(each["inference_stats"]["success"]["count"] for each in stats["model_stats"])


async def measure(rounds: int, seconds: int, console: Console) -> dict[str, object]:
    """Return all figures: medians over the rounds."""
    rng = np.random.default_rng(SEED)
    found: dict[tuple[str, int, str], list[Seen]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        shutil.copytree("build/models/digits", models / "digits")
        build_picture_model(models)
        cases = [
            Case("1 KiB", "digits", "X", rng.random((4, 64), np.float32)),
            Case("600 KB", "picture", "image", rng.random((1, 3, 224, 224), np.float32)),
        ]
        certificate, key = certificate_into(folder)
        os.environ["SSL_CERT_FILE"] = str(certificate)
        tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
        async with (
            LocalCluster(folder / "plain", models, nodes=1) as plain,
            LocalCluster(folder / "tls", models, nodes=1, router_options=tls) as by_tls,
            empty_server() as empty,
        ):
            routers = {}
            for suffix, cluster in {"": plain, BY_TLS: by_tls}.items():
                await cluster.wait_routable(1, models=[case.model for case in cases])
                routers[suffix] = Server(cluster.http_url, cluster.router.status()["pid"])
            before, sent = answered_by(routers[""]), 0.0
            for turn in range(rounds + 1):  # the first warms up
                for case in cases:
                    for count in IN_FLIGHT[case.name]:
                        seen = await runs(routers, empty, case, count, seconds)
                        sent += sum(seen[each].per_second for each in (HTTP, ONE, EACH)) * seconds
                        for wire, figures in seen.items():
                            if turn:
                                found.setdefault((case.name, count, wire), []).append(figures)
            # h2load does not look at gRPC's status: the router has to have answered as many
            if answered_by(routers[""]) - before < 0.99 * sent:
                raise SystemExit("not all of what h2load counts was answered well")
    return figures_of(found, console) | {"seed": SEED, "rounds": rounds, "seconds": seconds}


def figures_of(
    found: dict[tuple[str, int, str], list[Seen]], console: Console
) -> dict[str, object]:
    """Print medians and ratios, and return them."""
    table = Table("request", "in flight", "wire", "requests a second", "server CPU us")
    rows: list[dict[str, object]] = []
    rates: dict[tuple[str, int, str], float] = {}
    for (name, count, wire), seen in found.items():
        per_second = statistics.median(each.per_second for each in seen)
        cpu_us = statistics.median(each.cpu_us for each in seen)
        rates[name, count, wire] = per_second
        table.add_row(name, str(count), wire, f"{per_second:,.0f}", f"{cpu_us:.1f}")
        rows.append(
            {
                "request": name,
                "in_flight": count,
                "wire": wire,
                "per_second": round(per_second),
                "cpu_us": round(cpu_us, 1),
            }
        )
    console.print(table)
    ratios: dict[str, float] = {}
    for name, bar in BARS.items():
        most = IN_FLIGHT[name][-1]
        for suffix in ("", BY_TLS):
            ratio = rates[name, most, ONE + suffix] / rates[name, most, HTTP + suffix]
            ratios[f"{name}{suffix}"] = ratio
            console.print(
                f"gRPC over HTTP{suffix}, {name}, {most} in flight: {ratio:.2f} (bar {bar})"
            )
        ratios[f"{name}, over {EMPTY}"] = rates[name, most, ONE] / rates[name, most, EMPTY]
        console.print(
            f"gRPC over an empty grpcio.aio, {name}: {ratios[f'{name}, over {EMPTY}']:.2f} (bar 1.0)"
        )
    return {"ratios": ratios, "rows": rows}


def main() -> None:
    """Measure and keep the figures."""
    require_h2load()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=120)
    keep("wires", uvloop.run(measure(options.rounds, options.seconds, console)))


if __name__ == "__main__":
    main()
