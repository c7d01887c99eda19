"""The mesh's port: places of connections, from before their first byte to their end."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import trio
import trio.testing

from capamesh.protocol.mesh.port import MeshPort, limits_for_mesh

FEW = dataclasses.replace(limits_for_mesh(1024), unproven=2, unproven_of_address=2)


class Wire:
    """An accepted connection."""

    def __init__(self, host: str = "1.1.1.1") -> None:
        self.host = host
        self.is_closed = False
        self.ended = trio.Event()

    def get_remote_address(self) -> tuple[str, int]:
        return self.host, 9

    async def close(self) -> None:
        self.is_closed = True
        self.ended.set()


class Swarm:
    """What a port guards: each connection is of the peer that its wire is, once it says so."""

    def __init__(self, port: MeshPort) -> None:
        self.is_refusing = False
        self.upgraded = 0
        port.guard(self)  # type: ignore[arg-type]  # the part of a swarm that counts here

    async def upgrade_inbound_raw_conn(self, raw: object, _maddr: object) -> object:
        wire = raw.stream  # type: ignore[attr-defined]  # libp2p's raw connection
        await trio.sleep(0.1)
        if self.is_refusing:
            raise ValueError("no noise")
        self.upgraded += 1
        return SimpleNamespace(event_closed=wire.ended, peer_id=id(wire), close=wire.close)

    async def accepted(self, wire: Wire) -> None:
        await self._do_handle_inbound_connection(wire, None, None)  # type: ignore[attr-defined]  # as the port set it


def in_virtual_time(test) -> None:  # noqa: ANN001 - a function without arguments
    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def test_longest_unproven_gives_way_whether_it_has_said_who_it_is_or_not() -> None:
    async def test() -> None:
        port = MeshPort(FEW)
        swarm, wires = Swarm(port), [Wire() for _ in range(6)]
        async with trio.open_nursery() as nursery:
            for number, wire in enumerate(wires):
                nursery.start_soon(swarm.accepted, wire)
                await trio.sleep(1.0 if number < 3 else 0.01)
            await trio.sleep(1)
            assert [wire.is_closed for wire in wires] == [True] * 4 + [False] * 2
            assert repr(port) == "MeshPort(ConnectionLimiter(2 open, 2 unproven))"
            for wire in wires:
                wire.ended.set()
        assert repr(port) == "MeshPort(ConnectionLimiter(0 open, 0 unproven))"

    in_virtual_time(test)


def test_member_stays_while_strangers_come_and_its_next_connection_is_a_members_at_once() -> None:
    async def test() -> None:
        port = MeshPort(FEW)
        swarm, member = Swarm(port), Wire("9.9.9.9")
        strangers = [Wire(f"1.1.1.{number}") for number in range(20)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarm.accepted, member)
            await trio.sleep(1)
            port.members_are({id(member)})  # type: ignore[arg-type]  # as above
            nursery.start_soon(swarm.accepted, member)
            await trio.sleep(1)
            assert repr(port) == "MeshPort(ConnectionLimiter(2 open, 0 unproven))"
            for stranger in strangers:
                nursery.start_soon(swarm.accepted, stranger)
            await trio.sleep(1)
            assert not member.is_closed
            assert sum(stranger.is_closed for stranger in strangers) == 18
            for wire in (member, *strangers):
                wire.ended.set()

    in_virtual_time(test)


def test_connection_over_the_rate_or_that_cannot_be_upgraded_is_closed() -> None:
    async def test() -> None:
        port = MeshPort(limits_for_mesh(1024))
        swarm = Swarm(port)
        swarm.is_refusing = True
        wires = [Wire() for _ in range(100)]
        for wire in wires:
            await swarm.accepted(wire)
            assert wire.is_closed
        swarm.is_refusing = False
        flood = [Wire() for _ in range(200)]
        async with trio.open_nursery() as nursery:
            for wire in flood:
                nursery.start_soon(swarm.accepted, wire)
            await trio.sleep(1)
            assert swarm.upgraded <= 64
            assert sum(wire.is_closed for wire in flood) >= 200 - 64
            for wire in flood:
                wire.ended.set()

    in_virtual_time(test)
