"""The messages between a router's processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from capamesh.protocol.channel.framing import Decoder, encode
from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.tensors import Limits
from capamesh.router.fleet.overrides import Hold
from capamesh.router.process.workers.messages import (
    Part,
    Start,
    ToMain,
    ToWorker,
    from_wire,
    held_of,
    hold_of,
    settings_of,
    settings_values,
    to_wire,
)
from capamesh.router.resilience.health import CircuitState
from capamesh.router.settings import RouterSettings


def travelled(message: ToWorker | ToMain) -> ToWorker | ToMain:
    (raw,) = Decoder().feed(encode(to_wire(message)))
    return from_wire(raw)


def test_settings_travel_without_the_token() -> None:
    settings = RouterSettings(
        data_folder=Path("/d"),
        token="secret",  # noqa: S106 - no secret
        token_file=Path("/t"),
        bootstrap=("/ip4/1.2.3.4/tcp/1/p2p/Q",),
        rules_file=Path("/r.toml"),
        keys="postgresql://me:secret@db/keys",
        tls_certificate=Path("/c.pem"),
        tls_key=Path("/c.key"),
        tls_client_ca=Path("/ca.pem"),
        limits=Limits(max_json_bytes=7),
        trusted_proxies=("10.0.0.0/8",),
        workers=3,
    )
    start = travelled(Start(2, settings_values(settings)))
    assert isinstance(start, Start)
    assert settings_of(start.settings) == RouterSettings(
        data_folder=Path("/d"),
        bootstrap=("/ip4/1.2.3.4/tcp/1/p2p/Q",),
        rules_file=Path("/r.toml"),
        keys="postgresql://me:secret@db/keys",
        tls_certificate=Path("/c.pem"),
        tls_key=Path("/c.key"),
        tls_client_ca=Path("/ca.pem"),
        limits=Limits(max_json_bytes=7),
        trusted_proxies=("10.0.0.0/8",),
        workers=3,
    )


@pytest.mark.parametrize("state", [None, CircuitState.FORCED_OPEN])
def test_operators_word_travels_whole(state: CircuitState | None) -> None:
    hold = Hold(PeerId("p"), ModelName("m"), ModelVersion("1"), state)
    held = travelled(held_of(hold, 5))
    assert held == held_of(hold, 5)
    assert hold_of(held_of(hold)) == hold


@pytest.mark.parametrize(
    "raw",
    [{"type": "else"}, {"type": "part", "number": 1}, {"type": "part", "number": "1", "body": b""}],
)
def test_message_that_does_not_fit_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        from_wire(raw)
    assert travelled(Part(1, b"")) == Part(1, b"")
