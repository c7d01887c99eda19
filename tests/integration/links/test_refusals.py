"""Whose TLS handshake is refused, the log tells."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from link_sockets import HOST, Members, Side, within

from capamesh.protocol.connection_limits import ConnectionLimits
from capamesh.protocol.links.listener import LinkListener, bind
from capamesh.protocol.links.refusals import HandshakeRefusals
from capamesh.protocol.network import Role


class Log:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []

    def warning(self, event: str, *, reason: str, count: int) -> None:
        self.events.append((event, reason, count))


class Clock:
    """Stands still until a test moves it."""

    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


async def listen(members: Members, log: Log, clock: Clock) -> tuple[LinkListener, int]:
    node = members.join(Role.NODE)
    context = members.tls(node, server_side=True)
    endpoint, side = members.transport(node, None, None), Side(members.trust(), Role.ROUTER)
    refusals = HandshakeRefusals(log, clock)  # type: ignore[arg-type]  # it warns, no more
    sockets = await bind(HOST, 0, 8)
    server = LinkListener(
        sockets,
        lambda: endpoint._link(side, is_dialer=False),
        context,
        ConnectionLimits(100),
        5.0,
        refusals.note,
    )
    return server, sockets[0].getsockname()[1]


async def dial(port: int, context: ssl.SSLContext | None, first: bytes = b"") -> None:
    """Connect, say something and wait until the other side hangs up."""
    name: dict[str, Any] = {} if context is None else {"server_hostname": ""}
    with suppress(OSError):
        reader, writer = await within(asyncio.open_connection(HOST, port, ssl=context, **name))
        writer.write(first)
        await within(reader.read())
        writer.close()
        await within(writer.wait_closed())


def nobody(_: Members) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def old(strangers: Members) -> ssl.SSLContext:
    context = nobody(strangers)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def stranger(strangers: Members) -> ssl.SSLContext:
    context = strangers.tls(strangers.join(Role.ROUTER))
    context.verify_mode = ssl.CERT_NONE
    return context


def plain(_: Members) -> None:
    return None


@pytest.mark.parametrize(
    ("context_of", "first", "reason"),
    [
        (nobody, b"", "it has no certificate of a member"),
        (old, b"", "it does not speak TLS 1.3"),
        (
            stranger,
            b"",
            "its certificate is not one of this network: unable to get local issuer certificate",
        ),
        (plain, b"GET / HTTP/1.0\r\n\r\n", "it speaks HTTP, not TLS"),
        (plain, bytes(100), "it does not speak TLS"),
    ],
)
async def test_refused_handshake_is_reported_with_its_reason(
    members: Members,
    strangers: Members,
    context_of: Callable[[Members], ssl.SSLContext | None],
    first: bytes,
    reason: str,
) -> None:
    log = Log()
    server, port = await listen(members, log, Clock())
    await dial(port, context_of(strangers), first)
    server.close()
    assert log.events == [("handshake_refused", reason, 1)]


async def test_member_and_who_just_hangs_up_are_not_reported(members: Members) -> None:
    log = Log()
    server, port = await listen(members, log, Clock())
    member = members.tls(members.join(Role.ROUTER))
    _, writer = await within(asyncio.open_connection(HOST, port, ssl=member, server_hostname=""))
    writer.close()
    with suppress(OSError):  # a HELLO came behind its goodbye
        await within(writer.wait_closed())
    _, writer = await within(asyncio.open_connection(HOST, port))
    writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a handshake
    writer.close()
    await within(writer.wait_closed())
    await dial(port, None, b"GET / HTTP/1.0\r\n\r\n")  # was accepted after the others
    server.close()
    assert [reason for _, reason, _ in log.events] == ["it speaks HTTP, not TLS"]


async def test_flood_of_refusals_is_one_line_a_second_with_their_number(
    members: Members,
) -> None:
    log, clock = Log(), Clock()
    server, port = await listen(members, log, clock)
    for _ in range(4):
        await dial(port, None, bytes(100))
    assert [count for _, _, count in log.events] == [1]
    clock.now_s += 1.0
    await dial(port, None, bytes(100))
    server.close()
    assert [count for _, _, count in log.events] == [1, 4]
