"""Routers that share the store and the folder of jobs, and nodes, each of which can be started again as it was. IO: processes, files."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chaos import worker_pids
from free_ports import free_port
from typing_extensions import override

from capamesh.cli.local_cluster import STOP_LIMIT_S, LocalCluster
from capamesh.cli.member import Member
from capamesh.protocol.member_status import SERVING
from capamesh.protocol.network import Role

HOST = "127.0.0.1"


class JobCluster(LocalCluster):
    """Routers with one store of jobs among them. A member that is started again has its folder and its addresses of before."""

    def __init__(
        self,
        folder: Path,
        models: Path,
        *,
        jobs: str = "",
        places: Sequence[Path] = (),
        routers: Sequence[Sequence[str]] = ((), ()),
        nodes: int = 2,
        node_options: Sequence[str] = (),
    ) -> None:
        """Start nothing yet. `jobs` is the store, "": a file; `routers` has more options of each router."""
        super().__init__(folder, models, nodes, node_options=node_options)
        self.routers: list[Member] = []
        self._routers = routers
        self._jobs = jobs or str(folder / "jobs.db")
        self._places = places
        self._arguments: dict[str, tuple[str, ...]] = {}
        self._mesh: list[str] = []

    @property
    @override
    def members(self) -> list[Member]:
        return [*self.routers, *self.nodes]

    @override
    async def start(self) -> None:
        """Start the routers, then the nodes; return when all have joined the network."""
        try:
            for number, options in enumerate(self._routers, 1):
                name = f"router-{number}"
                arguments = [*("router", "run", "--jobs", self._jobs)]
                arguments += ["--jobs-folder", str(self.folder / "jobs")]
                for place in self._places:
                    arguments += ["--jobs-place", str(place)]
                for option in ("--http", "--mesh", "--links"):
                    arguments += [option, f"{HOST}:{free_port(HOST)}"]
                self._arguments[name] = (*arguments, *options)
                router = await self._start_member(name, Role.ROUTER)
                self.routers.append(router)
                await self._until(router, lambda status: bool(status.get("mesh_addresses")))
                await self._until(router, lambda status: status.get("state") in SERVING)
                self._mesh += router.status()["mesh_addresses"]
            self._router = self.routers[0]
            for _ in range(self._count):
                self._last_number += 1
                name = f"node-{self._last_number}"
                words = ("node", "run", "--models", str(self.models), "--name", name)
                self._arguments[name] = (*words, *self._node_options)
                self.nodes.append(await self._start_member(name, Role.NODE))
            await asyncio.gather(*map(self._until_joined, self.nodes))
        except BaseException:
            await self.stop()
            raise

    @override
    async def stop(self) -> None:
        for member in self.members:  # a frozen one would not end
            send(processes(member), signal.SIGCONT)
        await asyncio.gather(*(node.stop(STOP_LIMIT_S) for node in self.nodes))
        await asyncio.gather(*(router.stop(STOP_LIMIT_S) for router in self.routers))

    async def start_again(self, member: Member) -> Member:
        """Start a member that has ended; return it, which may not be ready yet."""
        members = self.routers if member in self.routers else self.nodes
        role = Role.ROUTER if members is self.routers else Role.NODE
        again = await self._start_member(member.name, role)
        members[members.index(member)] = again
        self._router = self.routers[0]
        return again

    async def _start_member(self, name: str, role: Role) -> Member:
        token = self._token(self._owner(), role, tuple(self._mesh))
        return await Member.start(
            name, self.folder / name, self._arguments[name], self._token_file(name, token)
        )


def url_of(router: Member) -> str:
    """Return where clients of a router come in; "": it is not there."""
    return str(router.status().get("http_address", "")) if router.is_running else ""


def workers_of(member: Member) -> list[int]:
    """Return the processes that run a node's models, or that serve a router's requests beside its main one."""
    status: dict[str, Any] = member.status()
    rows = status.get("workers", [])
    told = worker_pids(member) or [int(row["pid"]) for row in rows if row.get("pid")]
    return [pid for pid in told if parent_of(pid) == member.pid]


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0: it has ended. A status may name one whose number another has now."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def processes(member: Member) -> list[int]:
    """Return a member's processes but for its sidecar; none, where it has ended."""
    return [member.pid, *workers_of(member)] if member.is_running else []


def send(pids: Sequence[int], number: int) -> None:
    """Signal processes of this cluster; one that has ended is none."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
