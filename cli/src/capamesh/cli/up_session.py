"""The work of `capamesh up` and `capamesh join`. IO: processes, files, ports, prints."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from capamesh.cli import home as homes
from capamesh.cli.cluster_session import models_folder, run_cluster, warn_of_ignored
from capamesh.cli.local_cluster import JOIN_FILE, LocalCluster
from capamesh.cli.ports import NODE, ROUTER_AND_NODE, take_ports
from capamesh.cli.printing import hint
from capamesh.cli.routers_reached import unreached_text
from capamesh.protocol.advertised_address import member_name
from capamesh.protocol.data_dir import read_status
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.network import JoinToken, Role
from capamesh.protocol.private_files import read_private, replace_private

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - members alone are let in there
HERE: Final = "127.0.0.1"
TOKEN_FILE: Final = "node.token"  # noqa: S105 - a file's name, no secret


def run_up(
    home: Path | None,
    models: str | None,
    http: str,
    first_port: int | None,
    metrics: str,
    advertise: str,
    name: str,
    node_options: dict[str, str],
    router_options: Sequence[str] = (),
    *,
    is_insecure: bool,
    is_local: bool,
    as_json: bool,
) -> None:
    """Run a router and a node of the network that this machine owns until SIGINT or SIGTERM.

    The network is made if there is none. Raises `ConfigError` and `LocalError` when it does not start.
    """
    folder = (home or homes.default_home()).absolute() / homes.OWN_NETWORK
    host = HERE if is_local else EVERYWHERE
    with homes.hold(folder):
        _require_stopped(folder / "router")
        kept = homes.recall(folder)
        named = ("--name", member_name(name or kept.name))
        with take_ports(ROUTER_AND_NODE, host, kept.ports, first_port) as taken:
            ports = taken.by_name
            settings = homes.Settings(
                kept.models if models is None else models,
                http or kept.http,
                name or kept.name,
                metrics or kept.metrics,
                ports,
                kept.node | node_options,
                is_insecure or (not http and kept.insecure),
            )
            region = settings.node.get("--region")
            advertised = ("--advertise", advertise) if advertise else ()
            cluster = LocalCluster(
                folder,
                models_folder(_path(settings.models)),
                1,
                settings.http,
                network=_network_name(),
                router_options=(
                    *("--mesh", f"{host}:{ports['router_mesh']}"),
                    *("--links", f"{host}:{ports['router_links']}"),
                    *advertised,
                    *named,
                    *(["--insecure"] if settings.insecure else []),
                    *(["--region", region] if region else []),
                    *router_options,
                ),
                node_options=(
                    *_listening(host, ports),
                    *_measured(settings.metrics),
                    *advertised,
                    *named,
                    *_flat(settings.node),
                ),
            )
            _tell_of_settings(settings, is_new=models is not None)
            run_cluster(
                cluster,
                "up",
                lambda: homes.keep(folder, settings),  # a start that fails leaves no wrong options
                as_json=as_json,
                is_joinable=not is_local,
            )


def run_join(
    token_text: str,
    home: Path | None,
    models: str | None,
    first_port: int | None,
    metrics: str,
    advertise: str,
    name: str,
    node_options: dict[str, str],
    *,
    is_dial_only: bool,
) -> NoReturn:
    """Become `capamesh node run` with this token, in the folder of its network.

    The token goes into a file there, so that no list of processes shows it for longer than a moment; a newer one is taken over
    by a node that runs already. Raises `ConfigError` for a token that cannot be used, and, at the first join, when none of the
    routers that it names can be reached: later a node goes on dialling them.
    """
    token = JoinToken.decode(token_text, dt.datetime.now(dt.UTC))
    if token.role is not Role.NODE:
        raise ConfigError(
            f"this token admits a {token.role}, `capamesh join` runs a node: write it into a file, and use "
            f"`capamesh {token.role} run --data DIR --token-file FILE`"
        )
    folder = (home or homes.default_home()).absolute() / token.network_id
    data, token_file = folder / "node", folder / TOKEN_FILE
    if _is_running(data):
        replace_private(token_file, f"{token.encode()}\n".encode())
        hint(f"The node that runs in {data} takes this token over within seconds.")
        raise SystemExit(0)
    kept = homes.recall(folder)
    shown_name = member_name(name or kept.name)
    served = models_folder(_path(kept.models if models is None else models))
    unreached = unreached_text(token)
    if unreached and not data.exists():
        raise ConfigError(unreached)
    with take_ports(() if is_dial_only else NODE, EVERYWHERE, kept.ports, first_port) as taken:
        settings = homes.Settings(
            kept.models if models is None else models,
            name=name or kept.name,
            metrics=metrics or kept.metrics,
            ports={**kept.ports, **taken.by_name},
            node=kept.node | node_options,
        )
        homes.keep(folder, settings)
        replace_private(token_file, f"{token.encode()}\n".encode())
        if unreached:
            hint(f"{unreached}. The node goes on dialling until one answers.")
        hint(
            f"Joining {token.network_id} until {token.expires_at:%Y-%m-%d} with the models of {served}.\n"
            f"In another terminal: capamesh node status --data {data}"
        )
        _tell_of_settings(settings, is_new=models is not None)
        arguments = (
            *("node", "run", "--data", str(data), "--models", str(served)),
            *("--token-file", str(token_file), "--name", shown_name),
            *(["--dial-only"] if is_dial_only else _listening(EVERYWHERE, taken.by_name)),
            *_measured(settings.metrics),
            *(["--advertise", advertise] if advertise else []),
            *_flat(settings.node),
        )
        for variable in warn_of_ignored("join", arguments):
            del os.environ[variable]
        taken.stay_over_exec()
        _become(*arguments)


def kept_token(home: Path | None) -> str:
    """Return the token for other machines that the last `capamesh up` left; raise `ConfigError` when there is none."""
    file = (home or homes.default_home()).absolute() / homes.OWN_NETWORK / JOIN_FILE
    if not file.exists():
        raise ConfigError(
            f"there is no token in {file}: start the network with `capamesh up`, without --local; it writes one"
        )
    return read_private(file, "the join token").decode("ascii", "replace").strip()


def _tell_of_settings(settings: homes.Settings, *, is_new: bool) -> None:
    """Say which models are served, and what the node is held to: most of it is remembered from the start before."""
    if not settings.models:
        hint("These are the samples; --models DIR serves your own.")
    elif not is_new:
        hint(
            "The folder is that of the last start; --models DIR serves another, --samples the samples."
        )
    if settings.node:
        hint(f"The node's options, remembered for the next start: {' '.join(_flat(settings.node))}")


def _flat(options: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(word for option in options.items() for word in option)


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


def _measured(metrics: str) -> Sequence[str]:
    """Return the options by which a node serves metrics, none where it does not."""
    return ("--metrics", metrics) if metrics else ()


def _require_stopped(data: Path) -> None:
    if _is_running(data):
        raise ConfigError(
            f"another process lives in {data}: where it is of a start that was killed it ends within seconds, else stop it"
        )


def _is_running(data: Path) -> bool:
    try:
        return bool(read_status(data)["is_running"])
    except ConfigError:
        return False


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _network_name() -> str:
    """Return the name of a network that is made here: people know it by this machine's."""
    return os.uname().nodename.split(".")[0][:40] or "capamesh"
