"""A whole network on this machine: one router and some nodes, as real processes. IO: processes, files, HTTP."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from typing_extensions import override

from capamesh.cli.member import Member
from capamesh.client import AsyncClient
from capamesh.protocol.errors import CapameshError, ConfigError, KeyExposed, LocalError
from capamesh.protocol.member_status import SERVING
from capamesh.protocol.network import (
    OWNER_KEY_FILE,
    JoinToken,
    NetworkOwner,
    RevocationList,
    Role,
)
from capamesh.protocol.network.book import entry_of, write_down
from capamesh.protocol.network.seen import note_seen
from capamesh.protocol.private_files import read_private, replace_private
from capamesh.router.access.operator_key import authorization_from

START_LIMIT_S: Final = 120.0
"""The longest start of a process that runs; one that has ended is not waited for (measured: 2 s on a machine with nothing else
to do, 28 s on one with eight times as much to do as it has cores)."""
POLL_S: Final = 0.05
"""Seconds between two looks at a process (guess: nobody sees a delay this short)."""
STOP_LIMIT_S: Final = 45.0
"""The 30 s that a member waits for work under way, and what its children take to end."""
ANY_PORTS: Final = ("--mesh", "127.0.0.1:0", "--links", "127.0.0.1:0")
"""Any free ports, so that several clusters fit on one machine."""
TOKEN_LIFE: Final = dt.timedelta(days=365)
"""The life of tokens and of the memberships they give."""
RENEW_EVERY_S: Final = 30 * 86_400.0
"""Seconds after which members of this machine get new tokens (guess: a dozen tries before theirs end)."""
SEEN_EVERY_S: Final = 60.0
"""Seconds between two looks at who is a member (guess: who joins stays for longer, and a lost one is told of for a day)."""
MEMBERS: Final = 64
"""The members that the token of one process admits: itself, however often its folder is lost."""
JOINING: Final = 1024
"""The members that one token for other machines admits (guess)."""
JOINING_LABEL: Final = "capamesh join, on other machines"
"""The words for that token in the owner's book."""
JOIN_FILE: Final = "join.token"
MOST_REASONS: Final = 3
"""The most refused models, or files, that one message names (guess: more is a folder of something else)."""
OWNER_FOLDER: Final = "network"


class LocalCluster:
    """A router and nodes that all serve the models of one folder; everything they write is under `folder`.

    `async with` starts it and stops it. `nodes` has every node ever started, the dead ones too.
    """

    def __init__(
        self,
        folder: Path,
        models: Path,
        nodes: int = 3,
        http: str = "127.0.0.1:0",
        *,
        network: str = "local",
        node_options: Sequence[str] = (),
        router_options: Sequence[str] = (),
    ) -> None:
        """Start nothing yet. The options are more of `capamesh node run` and `capamesh router run`.

        A `network` of that name is made unless the folder holds one.
        """
        self.folder = folder
        self.models = models
        self.nodes: list[Member] = []
        self._count = nodes
        self._http = http
        self._network = network
        self._node_options = tuple(node_options)
        self._router_options = tuple(router_options)
        self._router: Member | None = None
        self._last_number = 0

    @override
    def __repr__(self) -> str:
        living = sum(node.is_running for node in self.nodes)
        return f"LocalCluster({self.folder}, {living} of {len(self.nodes)} nodes running)"

    async def __aenter__(self) -> LocalCluster:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def router(self) -> Member:
        """The router; `LocalError` before `start`."""
        if self._router is None:
            raise LocalError("the cluster is not started")
        return self._router

    @property
    def http_url(self) -> str:
        """The router's URL, for clients."""
        return str(self.router.status().get("http_address", ""))

    @property
    def headers(self) -> dict[str, str]:
        """The operator's key, for a router that asks for keys; none where it could not write that down."""
        try:
            return {"Authorization": authorization_from(self.router.data_folder)}
        except (ConfigError, KeyExposed):
            return {}

    @property
    def router_arguments(self) -> tuple[str, ...]:
        """The command line of the router, but for its folder and its token."""
        return ("router", "run", "--http", self._http, *ANY_PORTS, *self._router_options)

    def node_arguments(self, name: str) -> tuple[str, ...]:
        """Return the command line of a node, but for its folder and its token."""
        return ("node", "run", "--models", str(self.models), "--name", name, *self._node_options)

    @property
    def members(self) -> list[Member]:
        """The router, once started, and the nodes."""
        return [*([] if self._router is None else [self._router]), *self.nodes]

    async def start(self) -> None:
        """Start the router, then the nodes; return when all have joined the network.

        What fails or is cancelled on the way is stopped again. `LocalError`: a process ended or is late; the
        message has the end of its log. See `wait_routable` for when the nodes can be used.
        """
        try:
            owner = self._owner()
            self._router = await Member.start(
                "router",
                self.folder / "router",
                self.router_arguments,
                self._token_of("router", owner, Role.ROUTER),
            )
            await self._until(self._router, lambda status: bool(status.get("mesh_addresses")))
            await self._until(self._router, lambda status: status.get("state") in SERVING)
            nodes = [await self._start_node() for _ in range(self._count)]
            async with asyncio.TaskGroup() as tasks:
                for node in nodes:
                    tasks.create_task(self._until_joined(node))
        except BaseExceptionGroup as group:
            await self.stop()
            raise group.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise

    async def add_node(self) -> Member:
        """Start one more node; return when it has joined the network."""
        node = await self._start_node()
        await self._until_joined(node)
        return node

    async def wait_routable(
        self,
        count: int,
        models: Collection[str] | None = None,
        timeout_s: float = START_LIMIT_S,
        *,
        patience_s: float = math.inf,
    ) -> None:
        """Wait until the router can send requests to `count` nodes with all of `models` ready.

        Without `models`: none of the node's models is still loading, and one at least is ready; those that load for
        `patience_s` longer than the first are not waited for.
        `LocalError`: not within `timeout_s`, or it cannot be: so many nodes have ended, or have no model that could be served.
        """
        found: list[dict[str, Any]] = []
        now, patient_until_s = asyncio.get_running_loop().time, math.inf
        async with AsyncClient(self.http_url, headers=self.headers) as client:
            try:
                async with asyncio.timeout(timeout_s):
                    while True:
                        self._check_living(count)
                        found = await client.nodes()
                        if sum(is_routable(node, models) for node in found) >= count:
                            return
                        if sum(is_routable(node, models, may_load=True) for node in found) >= count:
                            patient_until_s = min(patient_until_s, now() + patience_s)
                        if now() >= patient_until_s:
                            return
                        if models is None:
                            self._check_servable(count)
                        await asyncio.sleep(POLL_S)
            except TimeoutError as exc:
                ready = sum(is_routable(node, models) for node in found)
                raise LocalError(
                    f"{ready} of {count} nodes are routable after {timeout_s:g} s; the router knows "
                    f"{len(found)}; see the logs under {self.folder}"
                ) from exc

    def refusals(self) -> list[str]:
        """Return the models of this machine's nodes that are refused, or whose newer file is, each with the reason."""
        from capamesh.node.models.registry import OUTDATED  # noqa: PLC0415 - help starts faster

        found = [model for node in self.nodes for model in node.status().get("models", [])]
        return list(
            dict.fromkeys(
                _refusal(model)
                for model in found
                if model.get("state") == "failed"
                or str(model.get("reason", "")).startswith(OUTDATED)
            )
        )

    async def stop(self) -> None:
        """Let the nodes finish their work and end, then the router; kill what does not. May be called again."""
        await asyncio.gather(*(node.stop(STOP_LIMIT_S) for node in self.nodes))
        if self._router is not None:
            await self._router.stop(STOP_LIMIT_S)

    def kill(self) -> None:
        """Kill all processes at once; those that they started end when they notice."""
        for member in self.members:
            member.signal(9)

    def join_token(self) -> JoinToken:
        """Return a token by which nodes of other machines join: the one of before while it is good for half of its life.

        A new one is written into the owner's book. Raises `ConfigError` when the disk refuses to keep it.
        """
        file = self.folder / JOIN_FILE
        kept = self._kept(file, Role.NODE, self._mesh_addresses())
        if kept is not None:
            return kept
        token, now = self._node_token(JOINING), dt.datetime.now(dt.UTC)
        write_down(self.folder / OWNER_FOLDER, entry_of(token, now, label=JOINING_LABEL))
        replace_private(file, f"{token.encode()}\n".encode())
        return token

    async def keep_memberships(self) -> None:
        """Put new tokens in the place of the members' every month, for as long as this runs."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            with suppress(ConfigError):  # a full disk: there are eleven more tries
                self._token_file("router", self._token(self._owner(), Role.ROUTER))
                for node in self.nodes:
                    if node.is_running:
                        self._token_file(node.name, self._node_token())

    async def keep_book(self) -> None:
        """Add the nodes that the router knows to the members in the owner's folder every minute, for as long as this runs."""
        folder = self.folder / OWNER_FOLDER
        async with AsyncClient(self.http_url, headers=self.headers) as client:
            while True:
                with suppress(CapameshError):  # the router starts anew, or a disk is full
                    found = await client.nodes()
                    await asyncio.to_thread(note_seen, folder, found, dt.datetime.now(dt.UTC))
                await asyncio.sleep(SEEN_EVERY_S)

    def _kept(self, file: Path, role: Role, bootstrap: Sequence[str]) -> JoinToken | None:
        """Return the token in a file while it can be used as a new one could, and is good for half of its life."""
        with suppress(ConfigError):
            kept = JoinToken.parse(read_private(file, "the token").decode("ascii", "replace"))
            is_of_now = (kept.role, kept.bootstrap) == (role, tuple(bootstrap))
            left = kept.expires_at - dt.datetime.now(dt.UTC)
            if is_of_now and left > TOKEN_LIFE / 2 and self._admits(kept):
                return kept
        return None

    def _admits(self, token: JoinToken) -> bool:
        """Return whether a token is of this network, and neither its invite nor the key that signed it was taken back."""
        owner, entry = self._owner(), entry_of(token, dt.datetime.now(dt.UTC))
        revoked = RevocationList.load(self.folder / OWNER_FOLDER, owner.ca_der)
        is_revoked = entry.invite in revoked.invites or entry.key < revoked.oldest_key
        return token.network_id == owner.network_id and not is_revoked

    def _owner(self) -> NetworkOwner:
        folder = self.folder / OWNER_FOLDER
        if (folder / OWNER_KEY_FILE).exists():
            return NetworkOwner.load(folder)
        owner = NetworkOwner.create(self._network, dt.datetime.now(dt.UTC))
        owner.save(folder)
        return owner

    def _token(
        self,
        owner: NetworkOwner,
        role: Role,
        bootstrap: Sequence[str] = (),
        members: int = MEMBERS,
    ) -> JoinToken:
        now = dt.datetime.now(dt.UTC)
        return owner.invite(
            role, expires_at=now + TOKEN_LIFE, bootstrap=bootstrap, now=now, members=members
        )

    def _node_token(self, members: int = MEMBERS) -> JoinToken:
        return self._token(self._owner(), Role.NODE, self._mesh_addresses(), members)

    def _mesh_addresses(self) -> tuple[str, ...]:
        return tuple(self.router.status().get("mesh_addresses", ()))

    def _token_of(
        self, member: str, owner: NetworkOwner, role: Role, bootstrap: Sequence[str] = ()
    ) -> Path:
        """Return the file of a member's token: the one of before while that is good, else a new one."""
        file = self.folder / f"{member}.token"
        if self._kept(file, role, bootstrap) is None:
            self._token_file(member, self._token(owner, role, bootstrap))
        return file

    def _token_file(self, member: str, token: JoinToken) -> Path:
        """Write a member's token into the owner's book, and keep it where the member looks for a newer one as it runs."""
        file = self.folder / f"{member}.token"
        entry = entry_of(token, dt.datetime.now(dt.UTC), label=f"{member} of this machine")
        write_down(self.folder / OWNER_FOLDER, entry)
        replace_private(file, f"{token.encode()}\n".encode())
        return file

    async def _start_node(self) -> Member:
        self._last_number += 1
        name = f"node-{self._last_number}"
        node = await Member.start(
            name,
            self.folder / name,
            self.node_arguments(name),
            self._token_of(name, self._owner(), Role.NODE, self._mesh_addresses()),
        )
        self.nodes.append(node)
        return node

    async def _until_joined(self, node: Member) -> None:
        await self._until(node, lambda status: bool(status.get("peer_id")))

    async def _until(self, member: Member, is_so: Callable[[dict[str, Any]], bool]) -> None:
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while not is_so(member.status()):
                    if not member.is_running:
                        raise LocalError(member.exit_report())
                    await asyncio.sleep(POLL_S)
        except TimeoutError as exc:
            raise LocalError(
                f"{member.name} (pid {member.pid}) has not started within {START_LIMIT_S:g} s; its log, "
                f"{member.log_file}, ends with:\n{member.last_lines()}"
            ) from exc

    def _check_living(self, count: int) -> None:
        dead = [member for member in self.members if not member.is_running]
        if not self.router.is_running or len(self.nodes) - len(dead) < count:
            reports = "\n".join(member.exit_report() for member in dead)
            raise LocalError(
                f"{count} nodes can never be routable: {reports or 'none was started'}"
            )

    def _check_servable(self, count: int) -> None:
        """Raise `LocalError` when fewer than `count` nodes have a model that is served, or may yet be."""
        if sum(not has_nothing_to_serve(node.status()) for node in self.nodes) >= count:
            return
        refused = self.refusals()
        if refused:
            more = f"; and {len(refused) - MOST_REASONS} more" if refused[MOST_REASONS:] else ""
            why = f"no model of {self.models} can be served: {'; '.join(refused[:MOST_REASONS])}{more}"
        else:
            why = f"there is no model in {self.models}, {_holds(self.models)}: it takes NAME/VERSION/model.onnx, or NAME.onnx"
        raise LocalError(f"{why}. Mend that, or give another folder: --models DIR")


def has_nothing_to_serve(status: Mapping[str, Any]) -> bool:
    """Return whether a node, as its status tells, has looked at its folder on each device, and has no model that is or may be served."""
    return (
        status.get("state") == "waiting"
        and len(status.get("data_addresses", ())) >= len(status.get("workers", ()))
        and all(model.get("state") == "failed" for model in status.get("models", ()))
    )


def _refusal(model: Mapping[str, Any]) -> str:
    """Return a model with the reason why it is refused."""
    name = f"{model.get('name')}/{model.get('version')}".removesuffix("/")
    return f"{name}: {model.get('reason')}"


def _holds(folder: Path) -> str:
    """Return what a folder without models has instead, for a sentence."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "which is empty"
    more = f" and {len(names) - MOST_REASONS} more" if names[MOST_REASONS:] else ""
    return f"which holds {', '.join(names[:MOST_REASONS])}{more}"


def is_routable(
    node: dict[str, Any], models: Collection[str] | None, *, may_load: bool = False
) -> bool:
    """Return whether a node of `/v1/nodes` can take requests for `models` (see `wait_routable`), others of which `may_load`."""
    states: dict[str, set[str]] = {}
    for model in node.get("models", []):
        states.setdefault(str(model.get("name")), set()).add(str(model.get("state")))
    if models is None:
        seen = {state for found in states.values() for state in found}
        has_models = "ready" in seen and (may_load or not seen & {"loading", "unloading"})
    else:
        has_models = all("ready" in states.get(name, set()) for name in models)
    is_usable = any(link.get("is_usable") for link in node.get("links", []))
    return has_models and is_usable and not node.get("is_draining")
