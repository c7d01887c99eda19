"""Leaves out of the mesh process what libp2p reads in and a member never uses. Changes what is imported.

`import libp2p` reads in all that libp2p can do: QUIC, WebSocket, relays, certificates by ACME, UPnP, data bases of
peers. A member speaks TCP, noise and yamux, and finds others by its own means. `leave_out` puts an empty stand-in in the
place of each part: what is imported from it is a class that nothing is an instance of and that refuses to be called.
Measured: 1,540 modules and 106 MB become 900 and 66 MB.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

LOCAL_DISCOVERY: Final = "libp2p.discovery.mdns"
"""The part that a member uses where it looks for others on its local network."""

LEFT_OUT: Final = (
    "libp2p.discovery.bootstrap",
    LOCAL_DISCOVERY,
    "libp2p.discovery.upnp",
    "libp2p.peer.persistent",
    "libp2p.relay",
    "libp2p.security.secio",
    "libp2p.security.tls",
    "libp2p.transport.quic",
    "libp2p.transport.websocket",
    "multiaddr.resolvers",
)
"""The parts, with all modules below them. A DNS name is resolved before libp2p sees it."""


class Unused(Exception):
    """The base of all that is imported from a part that is left out.

    libp2p derives from such classes, names them in annotations and in `except`, and makes a resolver for each host
    that it never asks; so an instance may be made of nothing, and of anything else may not.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        """Refuse to be called as what it stands for.

        Raises:
            NotImplementedError: there are arguments.
        """
        if arguments or options:
            raise NotImplementedError(
                f"{type(self).__module__}.{type(self).__qualname__} is left out of the mesh process"
            )
        super().__init__()


class _StandIn(ModuleType):
    """A module that has a class of every name, derived from `Unused`."""

    @override
    def __getattr__(self, name: str) -> type[Unused]:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Unused,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _StandIns(MetaPathFinder, Loader):
    """Answers for the parts before their files are found."""

    def __init__(self) -> None:
        self.parts = set(LEFT_OUT)

    def is_left_out(self, name: str) -> bool:
        """Return whether a module is one of the parts or below one."""
        while name not in self.parts:
            name, dot, _ = name.rpartition(".")
            if not dot:
                return False
        return True

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self.is_left_out(fullname):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    @override
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    @override
    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is: its names come when they are asked for."""


_STAND_INS: Final = _StandIns()


def leave_out() -> None:
    """Put the stand-ins in place; before the first import of libp2p, and in a process that only serves the mesh."""
    sys.meta_path.insert(0, _STAND_INS)


def read_in(part: str) -> None:
    """Have a part that was left out be the real one for those who import it from now on."""
    _STAND_INS.parts.discard(part)
    for name in [name for name in sys.modules if name == part or name.startswith(f"{part}.")]:
        if isinstance(sys.modules[name], _StandIn):
            del sys.modules[name]
