"""The work of `capamesh up` and `capamesh join`. IO: processes, files, ports, prints."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from capamesh.cli import home as homes
from capamesh.cli.cluster_session import models_folder, run_cluster
from capamesh.cli.local_cluster import LocalCluster
from capamesh.cli.printing import hint
from capamesh.protocol.advertised_address import member_name
from capamesh.protocol.data_dir import read_status
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.network import JoinToken, Role
from capamesh.protocol.private_files import replace_private

if TYPE_CHECKING:
    from collections.abc import Sequence

EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - members alone are let in there
HERE: Final = "127.0.0.1"
TOKEN_FILE: Final = "node.token"  # noqa: S105 - a file's name, no secret


def run_up(
    home: Path | None,
    models: Path | None,
    http: str,
    advertise: str,
    name: str,
    *,
    is_local: bool,
    as_json: bool,
) -> None:
    """Run a router and a node of the network that this machine owns until SIGINT or SIGTERM.

    The network is made if there is none. Raises `ConfigError` and `LocalError` when it does not start.
    """
    folder = (home or homes.default_home()).absolute() / homes.OWN_NETWORK
    kept = homes.recall(folder)
    host = HERE if is_local else EVERYWHERE
    ports = homes.ports_of(
        kept.ports,
        host,
        {
            "router_mesh": homes.ROUTER_MESH,
            "router_links": homes.ROUTER_LINKS,
            "node_mesh": homes.NODE_MESH,
            "node_links": homes.NODE_LINKS,
        },
    )
    settings = homes.Settings(
        _remembered(models, kept.models), http or kept.http, name or kept.name, ports
    )
    named = ("--name", member_name(settings.name))
    advertised = ("--advertise", advertise) if advertise else ()
    cluster = LocalCluster(
        folder,
        models_folder(Path(settings.models) if settings.models else None),
        1,
        settings.http,
        network=_network_name(),
        router_options=(
            *("--mesh", f"{host}:{ports['router_mesh']}"),
            *("--links", f"{host}:{ports['router_links']}"),
            *advertised,
            *named,
        ),
        node_options=(*_listening(host, ports), *advertised, *named),
    )
    homes.keep(folder, settings)
    run_cluster(cluster, as_json=as_json, is_joinable=not is_local)


def run_join(
    token_text: str,
    home: Path | None,
    models: Path | None,
    advertise: str,
    name: str,
    *,
    is_dial_only: bool,
) -> NoReturn:
    """Become `capamesh node run` with this token, in the folder of its network.

    The token goes into a file there, so that no list of processes shows it for longer than a moment; a newer one is taken over
    by a node that runs already. Raises `ConfigError` for a token that cannot be used.
    """
    token = JoinToken.decode(token_text, dt.datetime.now(dt.UTC))
    if token.role is not Role.NODE:
        raise ConfigError(
            f"this token admits a {token.role}, `capamesh join` runs a node: write it into a file, and use "
            f"`capamesh {token.role} run --data DIR --token-file FILE`"
        )
    folder = (home or homes.default_home()).absolute() / token.network_id
    kept = homes.recall(folder)
    ports = homes.ports_of(
        kept.ports, EVERYWHERE, {"node_mesh": homes.NODE_MESH, "node_links": homes.NODE_LINKS}
    )
    settings = homes.Settings(_remembered(models, kept.models), name=name or kept.name, ports=ports)
    served = models_folder(Path(settings.models) if settings.models else None)
    homes.keep(folder, settings)
    token_file = folder / TOKEN_FILE
    replace_private(token_file, f"{token.encode()}\n".encode())
    data = folder / "node"
    if _is_running(data):
        hint(f"The node that runs in {data} takes this token over within seconds.")
        raise SystemExit(0)
    more = ["--dial-only"] if is_dial_only else [*_listening(EVERYWHERE, ports)]
    more += ["--name", member_name(settings.name)]
    if advertise:
        more += ["--advertise", advertise]
    hint(
        f"Joining {token.network_id} until {token.expires_at:%Y-%m-%d} with the models of {served}.\n"
        f"In another terminal: capamesh node status --data {data}"
    )
    _become(
        "node",
        "run",
        "--data",
        str(data),
        "--models",
        str(served),
        "--token-file",
        str(token_file),
        *more,
    )


def _become(*arguments: str) -> NoReturn:
    """Go on as another command of `capamesh`, in this very process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, (sys.executable, "-P", "-m", "capamesh.cli", *arguments))  # noqa: S606 - this very program


def _listening(host: str, ports: dict[str, int]) -> Sequence[str]:
    """Return the options that say where a node listens."""
    return (
        *("--host", host),
        *("--port", str(ports["node_links"])),
        *("--mesh-port", str(ports["node_mesh"])),
    )


def _is_running(data: Path) -> bool:
    try:
        return bool(read_status(data)["is_running"])
    except ConfigError:
        return False


def _remembered(models: Path | None, kept: str) -> str:
    return kept if models is None else str(models.absolute())


def _network_name() -> str:
    """Return the name of a network that is made here: people know it by this machine's."""
    return os.uname().nodename.split(".")[0][:40] or "capamesh"
