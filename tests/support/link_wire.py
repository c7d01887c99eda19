"""Two cores joined back to back, so that tests say what goes in and read what comes out."""

from __future__ import annotations

import asyncio
import dataclasses
import random

from capamesh.protocol.ids import NetworkId
from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.events import Event
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.hello import Hello

NETWORK = NetworkId("cm-00000000000000000000000000000000")


def hello(limits: LinkLimits) -> Hello:
    return Hello(
        network=NETWORK,
        chain=(b"leaf", b"invite"),
        agent_version="test",
        initial_credit_bytes=limits.initial_credit_bytes,
        message_bytes=limits.message_bytes,
        part_window_bytes=limits.part_window_bytes,
    )


def feed(core: Connection, data: bytes | memoryview, step: int | None = None) -> list[Event]:
    """Give `data` to a core in pieces of at most `step` bytes."""
    events: list[Event] = []
    left = memoryview(data)
    while left:
        buffer = core.buffer()
        assert len(buffer) > 0
        count = min(len(buffer), len(left), step or len(left))
        buffer[:count] = left[:count]
        events += core.received(count)
        left = left[count:]
    return events


def deliver(protocol: asyncio.BufferedProtocol, data: bytes, step: int | None = None) -> None:
    """Let a protocol read `data`, in pieces of at most `step` bytes."""
    left = memoryview(data)
    while left:
        buffer = protocol.get_buffer(-1)
        count = min(len(buffer), len(left), step or len(left))
        buffer[:count] = left[:count]
        protocol.buffer_updated(count)
        left = left[count:]


class Wire:
    """A dialer and an acceptor whose bytes cross when `settle` is called."""

    def __init__(
        self,
        *,
        dialer: LinkLimits | None = None,
        acceptor: LinkLimits | None = None,
        seed: int | None = None,
    ) -> None:
        dialer, acceptor = dialer or LinkLimits(), acceptor or LinkLimits()
        self.dialer = Connection(is_dialer=True, hello=hello(dialer), limits=dialer)
        self.acceptor = Connection(is_dialer=False, hello=hello(acceptor), limits=acceptor)
        self._random = random.Random(seed) if seed is not None else None

    def step(self, sender: Connection, receiver: Connection, budget: int = 1 << 20) -> list[Event]:
        data = b"".join(sender.take(budget))
        if self._random is None:
            return feed(receiver, data)
        return feed(receiver, data, self._random.randint(1, 70_000))

    def settle(self) -> tuple[list[Event], list[Event]]:
        """Carry bytes both ways until none are left; return the dialer's and the acceptor's events."""
        at_dialer: list[Event] = []
        at_acceptor: list[Event] = []
        while self.dialer.has_output() or self.acceptor.has_output():
            at_acceptor += self.step(self.dialer, self.acceptor)
            at_dialer += self.step(self.acceptor, self.dialer)
        return at_dialer, at_acceptor


def greeted(**options: object) -> Wire:
    """Return a wire on which both sides have introduced themselves."""
    wire = Wire(**options)  # type: ignore[arg-type]  # passes the constructor's own options through
    wire.settle()
    return wire


def limits(**changes: int) -> LinkLimits:
    return dataclasses.replace(LinkLimits(), **changes)
