"""A router's process: in which order it starts, what it says as it does, and what it does on signals. IO: sockets."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import advert
from router_parts import made_parts

from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.process import router as process
from capamesh.router.process.parts import RouterParts
from capamesh.router.process.router import Router


class Log:
    """Keeps every event; a router that is ready is stopped."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def take(self, event: str, **values: Any) -> None:
        self.events.append((event, values))
        if event == "router_ready":
            signal.raise_signal(signal.SIGTERM)

    def _log(self, event: str, **values: Any) -> None:
        self.take(event, **values)

    debug = info = warning = error = exception = _log

    def bind(self, **_: object) -> Log:
        return self

    def of(self, event: str) -> list[dict[str, Any]]:
        return [values for name, values in self.events if name == event]


def make_router(folder: Path, log: Log | None = None, **settings: Any) -> tuple[RouterParts, Log]:
    """Return the parts of a router without a sidecar, and its log."""
    log = log or Log()
    parts = made_parts(folder, log, **settings)

    async def no_sidecar() -> None:
        await asyncio.Event().wait()

    parts.mesh.run = no_sidecar  # type: ignore[method-assign]
    return parts, log


async def run(parts: RouterParts) -> None:
    async with asyncio.timeout(10):
        await Router(parts).run()


async def test_router_is_ready_only_once_it_listens_for_links_and_serves_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, log = make_router(tmp_path)
    listen = parts.pool.run
    addresses: list[tuple[str, str]] = []

    async def slow(*arguments: Any) -> None:
        for _ in range(200):  # turns of the loop, more than it takes to serve HTTP
            await asyncio.sleep(0)
        await listen(*arguments)

    monkeypatch.setattr(parts.pool, "run", slow)
    take = log.take

    def with_addresses(event: str, **values: Any) -> None:
        if event == "router_ready":
            addresses.append((parts.standing.link_address, parts.standing.http_address))
        take(event, **values)

    monkeypatch.setattr(log, "take", with_addresses)
    await run(parts)
    ((link_address, http_address),) = addresses
    assert link_address.startswith("127.0.0.1:")
    assert http_address.startswith("http://127.0.0.1:")
    assert [event for event, _ in log.events] == [
        "router_ready",
        "router_draining",
        "router_stopped",
    ]


@pytest.mark.parametrize(("host", "is_open"), [("127.0.0.1", False), ("0.0.0.0", True)])  # noqa: S104
async def test_router_that_serves_http_beyond_its_machine_says_what_strangers_can_do(
    tmp_path: Path, host: str, is_open: bool
) -> None:
    parts, log = make_router(tmp_path, http_host=host)
    await run(parts)
    (ready,) = log.of("router_ready")
    assert ready["http"].startswith(f"http://{host}:")
    reported = {
        "http": ready["http"],
        "what_they_can_do": "run any model as often as the limits allow, in any tenant's name and at any priority, read every"
        " request's way, /v1/nodes with the addresses of all nodes, and /metrics; nothing on the way is encrypted",
        "what_to_do": "give out keys (capamesh keys create), listen on 127.0.0.1 and let a proxy with TLS come before it, or let a"
        " firewall allow only those you know",
    }
    assert log.of("http_open_to_strangers") == ([reported] if is_open else [])


async def test_taken_http_port_is_reported_once_in_the_systems_own_words(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        parts, _ = make_router(tmp_path, http_port=port)
        with pytest.raises(ExceptionGroup) as refusal:
            await run(parts)
    (error,) = refusal.value.exceptions
    assert str(error) == (
        f"cannot listen for HTTP on 127.0.0.1:{port}: Address already in use; give another --http"
    )


async def test_router_reads_its_rules_anew_on_sighup_and_keeps_the_old_while_they_are_wrong(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[m]\nweights = { "1" = 1 }\npolicy = "cheapest"\n')
    seen: list[str] = []

    class Editing(Log):
        """Edits the rules as the router goes on."""

        def take(self, event: str, **values: Any) -> None:
            self.events.append((event, values))
            match event:
                case "router_ready":
                    file.write_text('[m]\npolicy = "random"\nweights = { "1" = -1 }\n')
                    signal.raise_signal(signal.SIGHUP)
                case "rules_refused":
                    seen.append(served.policy.name)
                    file.write_text('[m]\npolicy = "random"\nmax_price = 2\n')
                    signal.raise_signal(signal.SIGHUP)
                case "rules_reloaded":
                    seen.append(served.policy.name)
                    signal.raise_signal(signal.SIGTERM)
                case _:
                    pass

    parts, log = make_router(tmp_path / "data", Editing(), rules_file=file)
    parts.members.apply([Joined(advert("A", "127.0.0.1:1"))])
    served = parts.balancer.served(ModelName("m"), ModelVersion(""))
    assert served.policy.name == "cheapest"
    await run(parts)
    (refused,) = log.of("rules_refused")
    assert refused["error"].startswith(f"{file}: m.weights.1 is -1, expected a number from 0")
    assert seen == ["cheapest", "random"]
    assert parts.routing.constraints(ModelName("m")).max_price == 2.0


async def test_bug_in_a_turn_is_logged_and_counted_and_the_next_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []

    class Watching(Log):
        def take(self, event: str, **values: Any) -> None:
            self.events.append((event, values))

    parts, log = make_router(tmp_path, Watching())
    monkeypatch.setattr(process, "TICK_S", 0.0)

    def crash() -> None:
        turns.append("members")
        if len(turns) == 3:
            signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("a bug")

    monkeypatch.setattr(parts.members, "tick", crash)
    await run(parts)
    assert [values["loop"] for values in log.of("turn_crashed")] == ["members"]
    counted = parts.telemetry.exposition().decode()
    assert f'capamesh_turns_crashed_total{{loop="members"}} {len(turns)}.0' in counted
    assert len(turns) >= 3
