# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateUsage=false, reportAttributeAccessIssue=false
# libp2p is partly typed, and what must be switched off in it is private.
"""Makes the libp2p host of a member: TCP, noise and yamux only, behind walls. No IO until it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost, _IdentifyNotifee
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX

from capamesh.protocol.mesh.hardening import (
    WalledYamux,
    contain_streams,
    multiplex_within_limits,
    remember_no_strangers,
)
from capamesh.protocol.mesh.port import MAX_CONNECTIONS

if TYPE_CHECKING:
    from capamesh.protocol.mesh.hardening import Warn
    from capamesh.protocol.mesh.port import MeshPort

_CONNECTIONS: Final = ConnectionConfig(
    max_connections=MAX_CONNECTIONS,
    high_watermark=MAX_CONNECTIONS,
    # Below the low watermark libp2p dials whomever it has ever heard of; who is dialled is our decision.
    min_connections=0,
    low_watermark=0,
    dial_timeout=5.0,
    inbound_upgrade_timeout=5.0,
    outbound_upgrade_timeout=5.0,
    inbound_stream_protocol_negotiation_timeout=5.0,
    outbound_stream_protocol_negotiation_timeout=5.0,
)
"""Timeouts are those of the membership handshake, within which all of it must be done."""


def make_host(private_key: bytes, warn: Warn, port: MeshPort) -> BasicHost:
    """Return a host with the identity of a raw Ed25519 private key, whose connections `port` guards."""
    multiplex_within_limits()
    key_pair = create_new_key_pair(private_key)
    noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
    host = cast(
        "BasicHost",
        new_host(
            key_pair=key_pair,
            # The defaults also offer plaintext.
            sec_opt={NOISE: noise},
            muxer_opt={TProtocol(YAMUX): WalledYamux},
            connection_config=_CONNECTIONS,
            disable_identify_address_discovery=True,
        ),
    )
    swarm = cast("Swarm", host.get_network())
    # Its circuit breaker would shut honest peers out after five failed connections of any peer.
    swarm.set_resource_manager(None)
    port.guard(swarm)
    remember_no_strangers(swarm)
    swarm.set_stream_handler(contain_streams(host._swarm_stream_handler, warn))  # noqa: SLF001  # the one place to wrap it
    _ask_nobody_for_identify(host, swarm)
    return host


def _ask_nobody_for_identify(host: BasicHost, swarm: Swarm) -> None:
    """Answer identify, but never ask: nothing it tells is trusted, and it runs as a trio system task.

    An exception in a system task ends the process.
    """
    swarm.notifees = [one for one in swarm.notifees if not isinstance(one, _IdentifyNotifee)]

    def schedule_nothing(*_args: object, **_options: object) -> None:
        return

    host._schedule_identify = schedule_nothing  # type: ignore[method-assign]  # noqa: SLF001  # see above
