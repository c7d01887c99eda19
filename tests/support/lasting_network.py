"""A network whose members are started with token files, so that they can be renewed as they run. IO: processes, HTTP."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from free_ports import free_port

from capamesh.cli.local_cluster import ANY_PORTS
from capamesh.protocol.data_dir import read_status
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.member_status import verdict
from capamesh.protocol.network import JoinToken, NetworkOwner, RevocationList, Role

LIMIT_S = 120.0
POLL_S = 0.05
DIGITS = {
    "inputs": [{"name": "X", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}],
}


class Service:
    """One `capamesh router run` or `capamesh node run`, with a folder and a token file of its own."""

    def __init__(self, folder: Path, role: Role, *options: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.token_file = folder / "token"
        self.log_file = folder / "log.jsonl"
        self.role = role
        self._options = options
        self.process: asyncio.subprocess.Process | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def give(self, token: JoinToken) -> None:
        """Put a token into its token file."""
        new = self.token_file.with_name("token.new")
        new.write_text(token.encode())
        new.chmod(0o600)
        new.replace(self.token_file)
        if self.process is not None and self.process.returncode is None and self.status():
            self.process.send_signal(signal.SIGHUP)

    def pin(self) -> None:
        """Let it have one mesh port at all its starts, which nobody is given while it is away."""
        self._options = (*self._options, "--mesh", f"127.0.0.1:{free_port()}")

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it."""
        with self.log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "capamesh.cli", self.role.value, "run"),
                *("--data", str(self.data), "--token-file", str(self.token_file)),
                *self._options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; return its exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        try:
            async with asyncio.timeout(40):
                return await process.wait()
        except TimeoutError:
            process.kill()
            return await process.wait()

    def status(self) -> dict[str, Any]:
        """Return its status; empty before this process wrote any."""
        try:
            status = read_status(self.data)
        except ConfigError:
            return {}
        return status if self.process is None or status.get("pid") == self.process.pid else {}

    def state(self) -> str:
        """Return what `capamesh ... status` would say of it now."""
        return verdict(self.status(), dt.datetime.now(dt.UTC)).state

    async def until(self, is_so: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until its status is so; return that."""
        deadline = asyncio.get_running_loop().time() + LIMIT_S
        while True:
            status = self.status()
            if status and is_so(status):
                return status
            assert self.process is not None
            log = self.log_file.read_text("utf-8", "replace")[-3000:]
            assert self.process.returncode is None, f"it ended before it was {what}: {log}"
            assert asyncio.get_running_loop().time() < deadline, f"not {what}: {status}\n{log}"
            await asyncio.sleep(POLL_S)

    async def until_state(self, state: str) -> None:
        """Wait until its status, as the command would show it, says so."""
        await self.until(lambda _: self.state() == state, state)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what it logged under this name."""
        lines = self.log_file.read_text("utf-8", "replace").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in found if event.get("event") == name]


class LastingNetwork:
    """An owner, one router and some nodes."""

    def __init__(self, folder: Path, models: Path, nodes: int) -> None:
        self.owner = NetworkOwner.create("lasting", dt.datetime.now(dt.UTC))
        self.list = RevocationList.empty(self.owner.network_id)
        self.router = Service(folder / "router", Role.ROUTER, "--http", "127.0.0.1:0", *ANY_PORTS)
        self.nodes = [
            Service(
                folder / f"node-{number}",
                Role.NODE,
                *("--models", str(models), "--threads", "1", "--poll", "0"),
            )
            for number in range(1, nodes + 1)
        ]
        self.url = ""

    @property
    def members(self) -> list[Service]:
        return [self.router, *self.nodes]

    def token(self, role: Role, lasts_s: float) -> JoinToken:
        """Return a new token of this life, with the router's address for nodes."""
        now = dt.datetime.now(dt.UTC)
        bootstrap = self.router.status().get("mesh_addresses", []) if role is Role.NODE else []
        return self.owner.invite(
            role, expires_at=now + dt.timedelta(seconds=lasts_s), bootstrap=bootstrap, now=now
        )

    def renew(self, lasts_s: float) -> None:
        """Put a new token into every member's file."""
        for member in self.members:
            member.give(self.token(member.role, lasts_s))

    async def start(self, lasts_s: float) -> None:
        """Start all members with memberships of this life, and wait until requests can be served."""
        self.router.give(self.token(Role.ROUTER, lasts_s))
        await self.router.start()
        status = await self.router.until(
            lambda status: bool(status.get("http_address") and status.get("mesh_addresses")), "up"
        )
        self.url = status["http_address"]
        for node in self.nodes:
            node.give(self.token(Role.NODE, lasts_s))
            await node.start()
        for member in self.members:
            await member.until_state("ready")
        await self.answered()

    async def revoke(self, *peers: str) -> dict[str, Any]:
        """Shut members out; return what the router answers."""
        self.list = self.owner.revoke(self.list, peers=peers, now=dt.datetime.now(dt.UTC))
        return await self.tell()

    async def tell(self) -> dict[str, Any]:
        """Hand the newest list to the router; return its answer."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/revocations", data=self.list.encode()) as reply,
        ):
            assert reply.status == 200, await reply.text()
            return await reply.json()

    async def ask(self) -> tuple[int, str]:
        """Ask `digits` once; return the status and the text."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v2/models/digits/infer", json=DIGITS) as reply,
        ):
            return reply.status, await reply.text()

    async def answered(self) -> None:
        """Ask until an answer is good: the router may have yet to hear that a node is ready."""
        async with asyncio.timeout(LIMIT_S):
            while (await self.ask())[0] != 200:
                await asyncio.sleep(POLL_S)

    async def metrics(self) -> dict[str, float]:
        """Return the router's metrics."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/metrics") as reply,
        ):
            lines = [line.rpartition(" ") for line in (await reply.text()).splitlines()]
        return {name: float(value) for name, _, value in lines if not name.startswith("#")}


@asynccontextmanager
async def lasting(folder: Path, models: Path, *, nodes: int = 1) -> AsyncIterator[LastingNetwork]:
    """Make a network, and end what of it runs at last; nothing is started yet."""
    network = LastingNetwork(folder, models, nodes)
    try:
        yield network
    finally:
        await asyncio.gather(*(member.stop() for member in reversed(network.members)))
