"""A cluster on this machine from start to Ctrl-C: what `capamesh dev up` and `capamesh up` do. IO: processes, signals, files, prints."""

from __future__ import annotations

import asyncio
import importlib.resources
import ipaddress
import math
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from capamesh.cli.example_requests import Example, tried_examples
from capamesh.cli.home import OWN_NETWORK, default_home
from capamesh.cli.local_cluster import JOIN_FILE, LocalCluster
from capamesh.cli.member import Member
from capamesh.cli.operator_client import AsyncOperatorClient
from capamesh.cli.printing import console, hint, print_json, print_table
from capamesh.cli.variables import ignored
from capamesh.protocol.errors import ConfigError, LocalError, Unauthenticated
from capamesh.protocol.network import JoinToken
from capamesh.router.access.operator_key import KEY_FILE

SAMPLES: Final = "samples"
FIRST_SHOWN: Final = "digits"
"""The sample that is shown first, as in the README."""
ROUTABLE_LIMIT_S: Final = 600.0
"""The longest wait until a cluster can be asked (guess: large models load for minutes; a fault before that ends a process)."""

QUIET_S: Final = 10.0
"""Seconds after which a start that goes on says what it waits for (guess: the samples are there in 5 to 10)."""
LOOK_S: Final = 0.5
"""Seconds between two looks for models that are refused (guess: nobody sees a delay this short)."""
PATIENCE_S: Final = 1.0
"""Seconds after the first model in which others are waited for before what can be asked is told (guess: small ones follow in it,
and larger ones are measured for up to 3 s each)."""


def run_session(
    models: Path | None,
    nodes: int,
    http: str,
    data: Path | None,
    router_options: Sequence[str] = (),
    *,
    is_insecure: bool,
    as_json: bool,
) -> None:
    """Run a router and so many nodes until SIGINT or SIGTERM, in a folder that is removed unless `data` names it.

    Raises `ConfigError` and `LocalError` when they do not start.
    """
    folder = models_folder(models)
    options = (*router_options, *(("--insecure",) if is_insecure else ()))

    def run_in(home: Path) -> None:
        cluster = LocalCluster(home, folder, nodes, http, router_options=options)
        run_cluster(cluster, "dev up", as_json=as_json)

    if data is not None:
        run_in(data.absolute())
        return
    with tempfile.TemporaryDirectory(prefix="capamesh-") as temporary:
        run_in(Path(temporary))


def run_cluster(
    cluster: LocalCluster,
    command: str,
    on_serving: Callable[[], None] = lambda: None,
    *,
    as_json: bool,
    is_joinable: bool = False,
) -> None:
    """Run a cluster until SIGINT or SIGTERM for a `command`, and tell how other machines join if it `is_joinable`.

    `on_serving` is called once, when the first model can be asked. Raises `ConfigError` and `LocalError` when it does not start.
    """
    warn_of_ignored(command, cluster.router_arguments, cluster.node_arguments(command))
    asyncio.run(_session(cluster, on_serving, as_json=as_json, is_joinable=is_joinable))


def warn_of_ignored(command: str, *members: Sequence[str]) -> list[str]:
    """Tell of variables that neither `command` goes by nor the members that it starts, and return them."""
    names = ignored(command, *members)
    if names:
        hint(
            f"capamesh: warning: `capamesh {command}` does not go by {', '.join(names)}: see its options, or use "
            "`capamesh router run` and `capamesh node run`"
        )
    return names


async def _session(
    cluster: LocalCluster, on_serving: Callable[[], None], *, as_json: bool, is_joinable: bool
) -> None:
    stop = asyncio.Event()

    def stop_or_kill() -> None:
        if stop.is_set():
            hint("Killing all processes.")
            cluster.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_or_kill)
    running = asyncio.create_task(
        _run(cluster, on_serving, as_json=as_json, is_joinable=is_joinable)
    )
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            hint("Stopping: the nodes finish their work first. Ctrl-C again kills all at once.")
        running.cancel()
        await asyncio.wait({running})
    finally:
        stopping.cancel()
        await cluster.stop()
    if not running.cancelled():
        running.result()


async def _run(
    cluster: LocalCluster, on_serving: Callable[[], None], *, as_json: bool, is_joinable: bool
) -> None:
    hint(f"Starting a router and nodes in {cluster.folder}, with the models of {cluster.models}")
    telling = asyncio.create_task(_tell_of_waits(cluster))
    refusals = _Refusals(cluster)
    watching = asyncio.create_task(refusals.watch())
    try:
        await cluster.start()
        patience_s = math.inf if as_json else PATIENCE_S
        await cluster.wait_routable(
            len(cluster.nodes), timeout_s=ROUTABLE_LIMIT_S, patience_s=patience_s
        )
        telling.cancel()
        on_serving()
        examples = await _write_examples(cluster)
        refusals.tell()
        await _report_and_watch(cluster, examples, as_json=as_json, is_joinable=is_joinable)
    finally:
        telling.cancel()
        watching.cancel()


class _Refusals:
    """The models that the nodes refuse, each of which is told of once, when it is."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._told: set[str] = set()

    def tell(self) -> None:
        """Print those that are new."""
        for refused in self._cluster.refusals():
            if refused not in self._told:
                self._told.add(refused)
                hint(f"Refused: {refused}")

    async def watch(self) -> None:
        """Print them as they come, until cancelled."""
        while True:
            self.tell()
            await asyncio.sleep(LOOK_S)


async def _tell_of_waits(cluster: LocalCluster) -> None:
    """Print what a start that takes long waits for, until cancelled."""
    began_s = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(QUIET_S)
        waited_s = asyncio.get_running_loop().time() - began_s
        states = [_state_of(member) for member in cluster.members]
        hint(f"After {waited_s:.0f} s: {'; '.join(states) or 'the router starts'}")


def _state_of(member: Member) -> str:
    """Return how a member is, in its own words."""
    status = member.status()
    state, reason = status.get("state", "starting"), status.get("reason", "")
    return f"{member.name} {state}" + (f" ({reason})" if reason else "")


async def _report_and_watch(
    cluster: LocalCluster, examples: list[Example], *, as_json: bool, is_joinable: bool
) -> None:
    """Print what can be done now, and what befalls the cluster until cancelled."""
    token = cluster.join_token() if is_joinable else None
    if as_json:
        joining = {} if token is None else {"join_token": token.encode()}
        print_json({**_report(cluster, examples), **joining})
    else:
        _print_report(cluster, examples, token, await _loading(cluster), await _key_line(cluster))
    async with asyncio.TaskGroup() as watches:
        if not as_json:
            told = {example.model for example in examples}
            watches.create_task(_tell_of_others(cluster, told))
        watches.create_task(cluster.keep_memberships())
        if is_joinable:
            watches.create_task(cluster.keep_book())
        for member in cluster.members:
            watches.create_task(_watch(member))
        await asyncio.Event().wait()  # until cancelled


async def _tell_of_others(cluster: LocalCluster, told: set[str]) -> None:
    """Print how to ask the models that were still loading, once none is."""
    try:
        await cluster.wait_routable(len(cluster.nodes), timeout_s=ROUTABLE_LIMIT_S)
    except LocalError:  # they load for long: `capamesh models` tells of them; or a process died, which `_watch` tells
        return
    examples = await _write_examples(cluster, told)
    if examples:
        console().print("\nReady as well:", style="bold")
        _print_examples(cluster, examples)


async def _watch(member: Member) -> None:
    await member.wait()
    hint(f"A process died: {member.exit_report()}")


def models_folder(models: Path | None) -> Path:
    """Return the folder of models, that of the samples for None; raise `ConfigError` when it is not there."""
    if models is not None:
        if not models.is_dir():
            raise ConfigError(f"the models folder {models} does not exist: give another --models")
        return models.absolute()
    samples = samples_folder() / "models"
    if not samples.is_dir():
        raise ConfigError("this installation has no sample models: give --models DIR")
    return samples


def samples_folder() -> Path:
    """Return the folder of the sample models and the inputs to try them with, which comes with this command."""
    return Path(str(importlib.resources.files("capamesh.cli"))) / SAMPLES


async def _write_examples(
    cluster: LocalCluster, told: Collection[str] = frozenset()
) -> list[Example]:
    """Write and try examples of the models that are ready, but for those that were `told` of."""
    async with AsyncOperatorClient(cluster.http_url, headers=cluster.headers) as client:
        ready = {entry.name for entry in await client.models() if entry.is_ready}
        return await tried_examples(
            client,
            sorted(ready.difference(told), key=lambda name: (name != FIRST_SHOWN, name)),
            cluster.folder / "examples",
            samples_folder() / "cases",
        )


async def _loading(cluster: LocalCluster) -> list[str]:
    """Return the models that a node is loading."""
    async with AsyncOperatorClient(cluster.http_url, headers=cluster.headers) as client:
        models = [model for node in await client.nodes() for model in node.get("models", [])]
    return sorted({str(model["name"]) for model in models if model["state"] == "loading"})


async def _key_line(cluster: LocalCluster) -> str:
    """Return how others than this command bring a key, where the router asks for one; empty where it does not."""
    async with AsyncOperatorClient(cluster.http_url) as client:
        try:
            await client.models()
        except Unauthenticated:
            file = cluster.router.data_folder / KEY_FILE
            return (
                "This router asks for a key. The commands above find the operator's by themselves; give curl "
                f'-H "Authorization: Bearer $(cat {file})", and the page what is in that file.'
            )
    return ""


def _report(cluster: LocalCluster, examples: list[Example]) -> dict[str, Any]:
    return {
        "http_url": cluster.http_url,
        "folder": str(cluster.folder),
        "models": [example.model for example in examples],
        "router": _member(cluster.router),
        "nodes": [_member(node) for node in cluster.nodes],
    }


def _member(member: Member) -> dict[str, Any]:
    status = member.status()
    return {
        "name": member.name,
        "pid": member.pid,
        "peer_id": status.get("peer_id", ""),
        "data_folder": str(member.data_folder),
        "log_file": str(member.log_file),
        "addresses": _addresses(status),
    }


def _addresses(status: dict[str, Any]) -> list[str]:
    router = [status["http_address"]] if status.get("http_address") else []
    return [*router, *status.get("data_addresses", []), *status.get("mesh_addresses", [])]


def _print_report(
    cluster: LocalCluster,
    examples: list[Example],
    token: JoinToken | None,
    loading: list[str],
    key_line: str,
) -> None:
    print_table(
        ("PROCESS", "PID", "ADDRESSES", "DATA AND LOG"),
        [
            (m.name, m.pid, "\n".join(_addresses(m.status())), m.data_folder)
            for m in cluster.members
        ],
    )
    option = _router_option(cluster)
    out = console()
    out.print(f"\nIn a browser: {cluster.http_url}/", markup=False, soft_wrap=True)
    out.print("\nIn another terminal:", style="bold")
    for line in (f"capamesh nodes{option}", f"capamesh models{option}"):
        out.print(f"  {line}", markup=False, soft_wrap=True)
    _print_examples(cluster, examples)
    shown = next((example for example in examples if not example.refusal), None)
    if shown is not None:
        line = f"{sys.executable} -c {shlex.quote(shown.python(cluster.http_url))}"
        out.print(f"  {line}", markup=False, soft_wrap=True)
    if key_line:
        out.print(key_line, markup=False, soft_wrap=True)
    if loading:
        names = ", ".join(loading)
        out.print(f"Still loading, and told of later: {names}", markup=False, soft_wrap=True)
    if token is not None:
        out.print("\nOn another machine, to add its models and devices:", style="bold")
        for line in joining_lines(token, cluster.folder):
            out.print(line, markup=False, soft_wrap=True)
    out.print("\nCtrl-C stops everything.")


def _print_examples(cluster: LocalCluster, examples: list[Example]) -> None:
    url, option, out = cluster.http_url, _router_option(cluster), console()
    for example in examples:
        if example.refusal:
            continue
        for line in example.lines(url, option):
            out.print(f"  {line}", markup=False, soft_wrap=True)
    for example in examples:
        if example.refusal:
            text = f"No example of {example.model}: {example.refusal}"
            out.print(text, markup=False, soft_wrap=True)


def _router_option(cluster: LocalCluster) -> str:
    """Return the option that names the router where it is not the default."""
    url = cluster.http_url
    return "" if url == "http://127.0.0.1:8000" else f" --router {url}"


def joining_lines(token: JoinToken, folder: Path) -> list[str]:
    """Return how other machines join, and what to do where none of them could reach this one."""
    home = "" if folder == default_home().absolute() / OWN_NETWORK else f" --home {folder.parent}"
    lines = [
        "  capamesh join TOKEN",
        f"TOKEN is a secret: `capamesh token{home}` prints it, and it lies in {folder / JOIN_FILE}",
    ]
    hosts = [address.split("/")[2] for address in token.bootstrap]
    if hosts and all(_is_loopback(host) for host in hosts):
        lines.append(
            f"No other machine reaches this one at {hosts[0]}, and this system has no route by which it could be told another "
            "address: end this, and give --advertise ADDRESS, the one by which others reach it."
        )
    return lines


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
