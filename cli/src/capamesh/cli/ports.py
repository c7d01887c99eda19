"""The ports of this machine's part in a network, taken so that no two starts choose the same ones. IO: sockets.

A member listens some seconds after its port was chosen, and libp2p shares a port with whoever else listens there. So a start
also binds the UDP ports of the same numbers on this machine's own address, which nobody uses, for as long as it runs: a start that comes
second finds them bound, whether the first one's members listen already or not.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final

from typing_extensions import override

from capamesh.protocol.advertised_address import listen_reason, require_free
from capamesh.protocol.errors import ConfigError

ROUTER_AND_NODE: Final = ("router_mesh", "router_links", "node_mesh", "node_links")
"""The listeners of `capamesh up`. A node's come last: each further device takes the next port."""
NODE: Final = ("node_mesh", "node_links")
"""The listeners of `capamesh join`."""
MOST_FIRST: Final = 65_535 - len(ROUTER_AND_NODE) + 1
"""The highest number that the ports can begin with."""
_USUAL: Final = {"router_mesh": 4001, "router_links": 4100, "node_mesh": 4002, "node_links": 4200}
"""The ports that are taken where they are free, so that a firewall can be told of them."""
_USES: Final = {
    "router_mesh": "the gossip of its router",
    "router_links": "nodes that dial its router",
    "node_mesh": "the gossip of its node",
    "node_links": "requests to its node",
}
_HERE: Final = "127.0.0.1"
_ANY: Final = range(20_000, 32_768)
"""The ports that any is chosen from. Systems give outgoing connections higher ones (Linux from 32,768, others from 49,152), so
that a member which is down does not find its port at the end of somebody's connection when it starts again."""
_TRIES: Final = 100
"""The ports that are tried before none is believed to be free (guess: few of so many are taken)."""


class TakenPorts:
    """The port of each listener. Until the end of its `with`, or of this process, no other start chooses one of them."""

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}
        self._marks: list[socket.socket] = []

    @override
    def __repr__(self) -> str:
        return f"TakenPorts({self.by_name})"

    def __enter__(self) -> TakenPorts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for mark in self._marks:
            mark.close()

    def take(self, name: str, host: str, port: int) -> None:
        """Take `port` of `host` for a listener; raise `ConfigError` when it is not free."""
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind((_HERE, port))
            require_free(host, port, "port")
        except (OSError, ConfigError) as exc:
            mark.close()
            cause = exc if isinstance(exc, OSError) else exc.__cause__
            reason = listen_reason(cause) if isinstance(cause, OSError) else str(exc)
            raise ConfigError(f"the port {port} cannot be listened on: {reason}") from exc
        self._marks.append(mark)
        self.by_name[name] = port

    def take_any(self, name: str, host: str) -> None:
        """Take any free port of `host` for a listener; raise `ConfigError` when there is none."""
        for _ in range(_TRIES):
            try:
                self.take(name, host, random.choice(_ANY))  # noqa: S311 - guessing it gains nothing
            except ConfigError:
                continue
            return
        raise ConfigError(f"no port of {host} is free for {_USES[name]}")

    def stay_over_exec(self) -> None:
        """Keep the ports taken when this process goes on as another program."""
        for mark in self._marks:
            mark.set_inheritable(True)


def take_ports(
    names: Sequence[str], host: str, kept: Mapping[str, int], first: int | None
) -> TakenPorts:
    """Take a port for each of `names`: that of `kept`, else the usual one if it is free, else any free one.

    With `first` they are that port and those that follow it, or any free ones for 0. Raises `ConfigError` when one that was kept, or
    that `first` asks for, is taken.
    """
    taken = TakenPorts()
    try:
        for number, name in enumerate(names):
            if first is not None:
                _take_given(taken, name, host, first + number if first else 0)
            elif name in kept:
                _take_kept(taken, name, host, kept[name])
            else:
                _take_usual(taken, name, host)
    except ConfigError:
        taken.__exit__(None, None, None)
        raise
    return taken


def _take_given(taken: TakenPorts, name: str, host: str, port: int) -> None:
    if not port:
        taken.take_any(name, host)
        return
    try:
        taken.take(name, host, port)
    except ConfigError as exc:
        raise ConfigError(
            f"{exc.message}; it was to be for {_USES[name]}: give another --port, or --port 0 for any free ones"
        ) from exc


def _take_kept(taken: TakenPorts, name: str, host: str, port: int) -> None:
    try:
        taken.take(name, host, port)
    except ConfigError as exc:
        raise ConfigError(
            f"{exc.message}; this network had it at its last start, for {_USES[name]}: end the process that has it (ss -ltnp shows "
            "which), or give --port PORT to have this and the following ports, --port 0 for any free ones"
        ) from exc


def _take_usual(taken: TakenPorts, name: str, host: str) -> None:
    try:
        taken.take(name, host, _USUAL[name])
    except ConfigError:
        taken.take_any(name, host)
