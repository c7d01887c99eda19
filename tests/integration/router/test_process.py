"""A router's process: in which order it starts, what it says as it does, and what it does on signals. IO: sockets."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from fleet_fakes import advert
from raw_http import connected
from router_http import made_parts

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.process import router as process
from capamesh.router.process.parts import RouterParts
from capamesh.router.process.router import Router
from capamesh.router.process.tls_watch import server_tls
from capamesh.router.process.workers.main import listening
from capamesh.router.settings import RouterSettings


class Log:
    """Keeps every event, and does at some what a test says; a router that is ready is else stopped."""

    def __init__(self, **acts: Callable[[], object]) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._acts = {"router_ready": stop, **acts}

    def _log(self, event: str, **values: Any) -> None:
        self.events.append((event, values))
        self._acts.get(event, lambda: None)()

    debug = info = warning = error = exception = _log

    def bind(self, **_: object) -> Log:
        return self

    def of(self, event: str) -> list[dict[str, Any]]:
        return [values for name, values in self.events if name == event]


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def reload() -> None:
    signal.raise_signal(signal.SIGHUP)


def make_router(folder: Path, log: Log | None = None, **settings: Any) -> tuple[RouterParts, Log]:
    """Return the parts of a router without a sidecar, and its log."""
    log = log or Log()
    parts = made_parts(folder, log, **settings)

    async def no_sidecar() -> None:
        await asyncio.Event().wait()

    parts.mesh.run = no_sidecar  # type: ignore[method-assign]
    return parts, log


async def run(parts: RouterParts) -> None:
    async with asyncio.timeout(60):
        await Router(parts).run()


async def test_router_is_ready_only_once_it_listens_for_links_and_serves_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[tuple[str, str]] = []

    def ready() -> None:
        addresses.append((parts.standing.link_address, parts.standing.http_address))
        stop()

    parts, log = make_router(tmp_path, Log(router_ready=ready))
    listen = parts.pool.run

    async def slow(*arguments: Any) -> None:
        for _ in range(200):  # turns of the loop, more than it takes to serve HTTP
            await asyncio.sleep(0)
        await listen(*arguments)

    monkeypatch.setattr(parts.pool, "run", slow)
    await run(parts)
    ((link_address, http_address),) = addresses
    assert link_address.startswith("127.0.0.1:")
    assert http_address.startswith("http://127.0.0.1:")
    events = [event for event, _ in log.events if event != "loop_late"]  # a busy machine's
    assert events == ["router_ready", "router_draining", "router_stopped"]


async def test_router_with_an_address_for_operators_serves_each_audience_at_its_own(
    tmp_path: Path,
) -> None:
    seen: dict[str, int] = {}
    asking: list[asyncio.Task[None]] = []

    async def ask() -> None:
        for name in ("http", "metrics"):
            port = int(log.of("router_ready")[0][name].rpartition(":")[2])
            for path in ("/metrics", "/v2/health/live"):
                by = authority if name == "http" else None
                seen[f"{name} {path}"] = await status_of(port, path, by)
        stop()

    authority = Authority(tmp_path / "authority")
    files = authority.server()
    parts, log = make_router(
        tmp_path / "data",
        Log(router_ready=lambda: asking.append(asyncio.create_task(ask()))),
        metrics_host="127.0.0.1",
        tls_certificate=files.certificate,
        tls_key=files.key,
    )
    await run(parts)
    (ready,) = log.of("router_ready")
    assert ready["http"].startswith("https://")
    assert ready["metrics"].startswith("http://127.0.0.1:")  # its machine's alone
    assert seen == {
        "http /metrics": 403,
        "http /v2/health/live": 200,
        "metrics /metrics": 200,
        "metrics /v2/health/live": 200,
    }


async def status_of(port: int, path: str, authority: Authority | None) -> int:
    """Return the status of a page of a port of this machine, asked by TLS where there is an authority."""
    tls = None if authority is None else authority.trusting()
    async with connected(port, tls=tls) as client:
        await client.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
        return (await client.answer()).status


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"metrics_host": "127.0.0.1", "metrics_port": 0}, "metrics-listen"),
        ({"http_port": 0}, "http"),
    ],
)
async def test_address_that_is_taken_is_refused_by_its_option_in_the_systems_own_words(
    tmp_path: Path, given: dict[str, Any], option: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {name: value or port for name, value in given.items()}
        parts, _ = make_router(tmp_path, **settings)
        with pytest.raises(ExceptionGroup) as refusal:
            await run(parts)
    (error,) = refusal.value.exceptions
    assert isinstance(error, ConfigError)
    assert error.message == (
        f"cannot listen for HTTP on 127.0.0.1:{port}: Address already in use; give another --{option}"
    )


@pytest.mark.parametrize(("host", "is_open"), [("127.0.0.1", False), ("0.0.0.0", True)])  # noqa: S104
async def test_router_that_serves_http_beyond_its_machine_says_what_strangers_can_do(
    tmp_path: Path, host: str, is_open: bool
) -> None:
    parts, log = make_router(tmp_path, http_host=host, is_insecure=True)
    await run(parts)
    (ready,) = log.of("router_ready")
    assert ready["http"].startswith(f"http://{host}:")
    reported = {
        "http": ready["http"],
        "what_they_can_do": "run any model as often as the limits allow, in any tenant's name and at any priority, read every"
        " request's way, /v1/nodes with the addresses of all nodes, and /metrics; nothing on the way is encrypted",
        "what_to_do": "give out keys (capamesh keys create), listen on 127.0.0.1 and let a proxy come before it, or let a"
        " firewall allow only those you know",
    }
    assert log.of("http_open_to_strangers") == ([reported] if is_open else [])


async def test_router_that_would_serve_http_beyond_its_machine_does_not_start(
    tmp_path: Path,
) -> None:
    parts, log = make_router(tmp_path, http_host="0.0.0.0")  # noqa: S104 - it is not listened on
    with pytest.raises(ConfigError, match="say by --insecure"):
        await run(parts)
    assert log.events == []


async def test_router_reads_its_rules_anew_on_sighup_and_keeps_the_old_while_they_are_wrong(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[m]\nweights = { "1" = 1 }\npolicy = "cheapest"\n')
    seen: list[str] = []

    def rewrite(text: str) -> None:
        file.write_text(f'[m]\npolicy = "random"\n{text}\n')
        reload()

    def look() -> None:
        seen.append(served.policy.name)

    log = Log(
        router_ready=lambda: rewrite('weights = { "1" = -1 }'),
        rules_refused=lambda: (look(), rewrite("max_price = 2")),
        rules_reloaded=lambda: (look(), stop()),
    )
    parts, _ = make_router(tmp_path / "data", log, rules_file=file)
    parts.members.apply([Joined(advert("A", "127.0.0.1:1"))])
    served = parts.balancer.served(ModelName("m"), ModelVersion(""))
    assert served.policy.name == "cheapest"
    await run(parts)
    (refused,) = log.of("rules_refused")
    assert refused["error"].startswith(f"{file}: m.weights.1 is -1, expected a number from 0")
    assert seen == ["cheapest", "random"]
    assert parts.routing.constraints(ModelName("m")).max_price == 2.0


async def test_router_shows_the_certificate_that_its_files_have_on_sighup_and_the_old_while_they_are_wrong(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path / "authority")
    files = authority.server()
    certificate, key = authority.issue("next")
    shown: list[int] = []
    looks: list[asyncio.Task[None]] = []

    async def look(then: Callable[[], object]) -> None:
        port = int(parts.standing.http_address.rpartition(":")[2])
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=authority.trusting(), server_hostname="localhost"
        )
        shown.append(int(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"], 16))
        writer.transport.abort()
        then()

    def after_a_look(then: Callable[[], object]) -> Callable[[], None]:
        return lambda: looks.append(asyncio.create_task(look(then)))

    log = Log(
        # first without its key
        router_ready=after_a_look(lambda: (certificate.replace(files.certificate), reload())),
        certificate_refused=after_a_look(lambda: (key.replace(files.key), reload())),
        certificate_reloaded=after_a_look(stop),
    )
    tls = {"tls_certificate": files.certificate, "tls_key": files.key}
    parts, _ = make_router(tmp_path / "data", log, **tls)
    await run(parts)
    assert parts.standing.http_address.startswith("https://127.0.0.1:")
    (refused,) = log.of("certificate_refused")
    said = f"--tls-key {files.key} is not the key of --tls-cert {files.certificate}"
    assert refused["error"] == said
    before, meanwhile, after = shown
    assert before == meanwhile != after


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_certificate"}, "is given alone: --tls-cert and --tls-key belong together"),
        ({"tls_key"}, "is given alone: --tls-cert and --tls-key belong together"),
        ({"tls_client_ca"}, "give --tls-cert and --tls-key, too"),
        ({"tls_certificate", "tls_key"}, "does not exist"),
    ],
)
def test_tls_that_cannot_be_had_is_refused_before_the_folder_is_taken(
    tmp_path: Path, given: set[str], said: str
) -> None:
    files = dict.fromkeys(given, tmp_path / "gone.pem")
    with pytest.raises(ConfigError, match=said):
        server_tls(RouterSettings(tmp_path, **files), time.time)


async def test_bug_in_a_turn_is_logged_and_counted_and_the_next_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    parts, log = make_router(tmp_path, Log(router_ready=lambda: None))
    monkeypatch.setattr(process, "TICK_S", 0.0)

    def crash() -> None:
        turns.append("members")
        if len(turns) == 3:
            stop()
        raise RuntimeError("a bug")

    monkeypatch.setattr(parts.members, "tick", crash)
    await run(parts)
    assert [values["loop"] for values in log.of("turn_crashed")] == ["members"]
    counted = parts.telemetry.exposition().decode()
    assert f'capamesh_turns_crashed_total{{loop="members"}} {len(turns)}.0' in counted
    assert len(turns) >= 3


def test_sockets_that_workers_share_listen_before_any_is_there_and_are_refused_if_taken() -> None:
    (shared,) = listening("127.0.0.1", 0, "--http")
    port = shared.getsockname()[1]
    with shared, socket.create_connection(("127.0.0.1", port)):
        accepted, _ = shared.accept()
        accepted.close()
        with pytest.raises(ConfigError) as refusal:
            listening("127.0.0.1", port, "--metrics-listen")
    assert str(refusal.value) == (
        f"cannot listen for HTTP on 127.0.0.1:{port}: Address already in use; give another --metrics-listen"
    )
