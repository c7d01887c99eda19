"""Opens what a worker may not open once its sandbox is closed. IO: files, system calls."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.node.devices.in_flight_page import InFlightPage
from capamesh.node.worker import sandbox
from capamesh.node.worker.memory_limit import budget_bytes, messages_bytes
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.network import Membership
from capamesh.protocol.network.folder import IDENTITY_FILE

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.contract.messages import Start


@dataclass(frozen=True, slots=True)
class Opened:
    """The member whose links a worker ends, and its page; the key itself is in no file that it can read any more."""

    membership: Membership
    transport: LinkTransport
    page: InFlightPage | None
    sandbox: str
    """The restrictions of the process, for people."""


def open_and_close(start: Start, log: FilteringBoundLogger) -> Opened:
    """Open what a worker needs, then close it in; before anything starts a thread or reads a model.

    ConfigError: the membership or the page cannot be read.
    """
    folder = Path(start.membership_folder)
    membership = Membership.load(folder, dt.datetime.now(dt.UTC))
    messages = messages_bytes(
        budget_bytes(
            is_gpu=False,
            total_bytes=start.memory_total_bytes,
            free_bytes=start.memory_free_bytes,
        )
        if start.device_kind != "cuda"
        else 0
    )
    transport = LinkTransport(
        membership,
        folder,
        agent_version=package_version("capamesh"),
        limits=LinkLimits(receive_bytes=messages, send_bytes=messages),
        log=log,
    )
    page = InFlightPage.open(Path(start.running_page)) if start.running_page else None
    holds = "none: --no-sandbox"
    if start.settings.is_sandboxed:
        holds = sandbox.close(
            models_folder=Path(start.models_folder),
            cache_folder=Path(start.cache_folder),
            secret=folder / IDENTITY_FILE,
            is_gpu=start.device_kind == "cuda",
            port=start.port,
            is_dialing=start.settings.is_dialing,
        )
    return Opened(membership, transport, page, holds)
