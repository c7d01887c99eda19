"""One router without its sidecar: what it does with what it hears, and in which order it starts."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import in_virtual_time, linked, offer

from capamesh.protocol import advertised_address as outward
from capamesh.protocol.adverts import (
    KIND_ADVERT,
    Device,
    NodeAdvert,
    Sequence,
    SequenceSource,
    advert_to_body,
    open_envelope,
    router_from_body,
    seal,
)
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import ConfigError, NoEndpoint, Unsatisfiable
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.network import JoinToken, Membership, NetworkOwner, RevocationList, Role
from capamesh.protocol.network.chain import read_authority, read_invite
from capamesh.router import process as service
from capamesh.router.balancing.eligibility import Constraints
from capamesh.router.http.exchange import InferTarget
from capamesh.router.process import LAST_FLEET_FILE, Router
from capamesh.router.resilience.health import CircuitState
from capamesh.router.settings import RouterSettings


@pytest.fixture(autouse=True)
def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router holds its folder to its process's end, for which no test waits."""
    monkeypatch.setattr(DataDir, "lock", lambda _: None)


class Log:
    """Keeps every event, with the state of the router at that moment."""

    def __init__(self) -> None:
        self.router: Router | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.link_addresses: dict[str, str] = {}

    def _take(self, event: str, **values: Any) -> None:
        self.events.append((event, values))
        if self.router is not None:
            self.link_addresses[event] = self.router._link_address
        if event == "router_ready":
            signal.raise_signal(signal.SIGTERM)

    debug = info = warning = error = exception = _take

    def bind(self, **_: object) -> Log:
        return self

    def of(self, event: str) -> list[dict[str, Any]]:
        return [values for name, values in self.events if name == event]


NOW = dt.datetime.now(dt.UTC)
OWNER = NetworkOwner.create("home", NOW)


def invite(role: Role) -> JoinToken:
    return OWNER.invite(role, expires_at=NOW + dt.timedelta(days=1), bootstrap=(), now=NOW)


def make_router(folder: Path, **settings: Any) -> tuple[Router, Log]:
    given = {"http_port": 0, "mesh_port": 0, "link_port": 0, **settings}
    log = Log()
    log.router = Router(
        RouterSettings(data_folder=folder, token=invite(Role.ROUTER).encode(), **given),
        log,  # type: ignore[arg-type]  # it takes every event
    )
    return log.router, log


def heard(router: Router, token: JoinToken, port: int) -> str:
    """Let the router hear the advert of a new node that `token` admitted; return the node's peer id."""
    member = Membership.join(Identity.generate(), token, NOW)
    return says(router, member, port, SequenceSource(time.time_ns()).next())


def says(
    router: Router, member: Membership, port: int, sequence: Sequence, interval_s: int = 10
) -> PeerId:
    """Let the router hear the advert of a node; return its peer id."""
    peer = member.identity.peer_id
    advert = NodeAdvert(
        peer=peer,
        sequence=sequence,
        devices=(Device(0, "cpu", "cpu", "CPUExecutionProvider", 100, 50, (f"127.0.0.1:{port}",)),),
        models=(offer(),),
        region="",
        price_per_million=0.0,
        agent_version="0.1",
        is_draining=False,
        interval_s=interval_s,
    )
    now_ms = time.time_ns() // 10**6
    envelope = seal(KIND_ADVERT, advert_to_body(advert), member, sequence, now_ms)
    router._heard("adverts", envelope, peer)
    return peer


def test_a_revoked_invite_expels_all_that_it_admitted_and_nobody_else(tmp_path: Path) -> None:
    router, log = make_router(tmp_path)
    revoked, kept = invite(Role.NODE), invite(Role.NODE)
    out = [heard(router, revoked, port) for port in (7001, 7002)]
    stays = heard(router, kept, 7003)
    assert list(router._fleet.adverts) == [*out, stays]
    serial = read_invite(read_authority(OWNER.ca_der), revoked.invite_der).serial
    revocations = OWNER.revoke(
        RevocationList.empty(OWNER.network_id), invites=[serial], now=dt.datetime.now(dt.UTC)
    )
    assert router._revoke(revocations.encode()) == (revocations, True)
    assert list(router._fleet.adverts) == [stays]
    assert log.of("node_left") == [{"peer": peer, "reason": "revoked"} for peer in out]
    late = heard(router, revoked, 7004)
    assert late not in router._fleet.adverts
    assert len(log.of("advert_rejected")) == 1


async def test_a_router_is_ready_only_once_it_listens_for_links_and_serves_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, log = make_router(tmp_path)
    listen = router._pool._transport.listen

    async def slow_listen(*arguments: Any) -> asyncio.Server:
        for _ in range(200):  # turns of the loop, more than it takes to serve HTTP
            await asyncio.sleep(0)
        return await listen(*arguments)

    async def no_sidecar() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(router._pool._transport, "listen", slow_listen)
    monkeypatch.setattr(router._mesh, "run", no_sidecar)
    async with asyncio.timeout(10):
        await router.run()
    assert log.link_addresses["router_ready"] == router._link_address != ""
    assert [event for event, _ in log.events] == [
        "router_ready",
        "router_draining",
        "router_stopped",
    ]


@pytest.mark.parametrize(("host", "is_open"), [("127.0.0.1", False), ("0.0.0.0", True)])  # noqa: S104
async def test_a_router_that_serves_http_beyond_its_machine_says_what_strangers_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, is_open: bool
) -> None:
    router, log = make_router(tmp_path, http_host=host)

    async def no_sidecar() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(router._mesh, "run", no_sidecar)
    async with asyncio.timeout(10):
        await router.run()
    (ready,) = log.of("router_ready")
    assert ready["http"].startswith(f"http://{host}:")
    reported = {
        "http": ready["http"],
        "what_they_can_do": "run any model as often as the limits allow, in any tenant's name and at any priority, read every"
        " request's way, /v1/nodes with the addresses of all nodes, and /metrics; nothing on the way is encrypted",
        "what_to_do": "listen on 127.0.0.1 and let a proxy with TLS and keys come before it, or let a firewall allow only"
        " those you know",
    }
    assert log.of("http_open_to_strangers") == ([reported] if is_open else [])


async def test_a_taken_http_port_is_reported_once_in_the_systems_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        router, _ = make_router(tmp_path, http_port=port)

        async def no_sidecar() -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(router._mesh, "run", no_sidecar)
        async with asyncio.timeout(10):
            with pytest.raises(ExceptionGroup) as refusal:
                await router.run()
    (error,) = refusal.value.exceptions
    assert str(error) == (
        f"cannot listen for HTTP on 127.0.0.1:{port}: Address already in use; give another --http"
    )


def test_an_address_that_nobody_can_be_reported_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def source(family: int) -> str:
        return "10.1.2.3" if family == socket.AF_INET else ""

    monkeypatch.setattr(outward, "_source_of_default_route", source)
    with pytest.raises(ConfigError, match="--advertise"):
        make_router(tmp_path, link_host="::")


def test_a_rules_file_that_is_not_there_ends_the_start_by_its_name(tmp_path: Path) -> None:
    missing = tmp_path / "no such rules.toml"
    with pytest.raises(ConfigError) as refusal:
        make_router(tmp_path / "data", rules_file=missing)
    assert refusal.value.message.startswith(f"the rules in {missing} cannot be read: ")
    with pytest.raises(ConfigError, match="cannot be read"):
        make_router(tmp_path / "data", rules_file=tmp_path)  # a folder
    assert not (tmp_path / "data").exists()  # nothing is begun that is not finished


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[m", " is not TOML: "),
        (b"\xff\xfe", " cannot be read: "),
        (b'[m]\npolicy = "best"', ": m.policy is 'best', expected one of affinity, "),
        (b"[m]\nhedges = true", ": m has the unknown key 'hedges'; allowed are policy, "),
        (b"m = 1", ": m is 1, expected the table of a model"),
        (b'["*"]\nmax_price = -1', ': "*".max_price is -1, expected a number from 0 to '),
    ],
)
def test_rules_that_are_none_end_the_start_by_their_file_and_what_is_wrong(
    tmp_path: Path, content: bytes, what: str
) -> None:
    file = tmp_path / "rules.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        make_router(tmp_path / "data", rules_file=file)
    assert f"{file}{what}" in refusal.value.message


def test_rules_hold_for_the_models_that_they_name_and_the_settings_for_all_others(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[m]\npolicy = "cheapest"\nregions = ["eu"]\nretry = false\n')
    router, _ = make_router(tmp_path / "data", rules_file=file, policy="p2c")
    heard(router, invite(Role.NODE), 7001)
    served = router._balancer.served(ModelName("m"), ModelVersion(""))
    assert (served.policy.name, served.terms.constraints) == (
        "cheapest",
        Constraints(regions=frozenset({"eu"})),
    )
    assert (served.is_safe, served.terms.is_hedged) == (False, True)
    others = router._terms_of(ModelName("x"))
    assert (others.policy, others.constraints, others.is_retried) == ("p2c", Constraints(), True)


async def test_a_router_reads_its_rules_anew_when_reported_to_and_keeps_the_old_while_they_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[m]\nweights = { "1" = 1 }\npolicy = "cheapest"\n')
    router, log = make_router(tmp_path / "data", rules_file=file)
    heard(router, invite(Role.NODE), 7001)
    served = router._balancer.served(ModelName("m"), ModelVersion(""))
    assert served.policy.name == "cheapest"
    seen: list[str] = []

    def take(event: str, **values: Any) -> None:
        log.events.append((event, values))
        match event:
            case "router_ready":
                file.write_text('[m]\npolicy = "random"\nweights = { "1" = -1 }\n')
                signal.raise_signal(signal.SIGHUP)
            case "rules_refused":
                seen.append(served.policy.name)
                file.write_text('[m]\npolicy = "random"\nweights = { "1" = 2 }\n')
                signal.raise_signal(signal.SIGHUP)
            case "rules_reloaded":
                seen.append(served.policy.name)
                signal.raise_signal(signal.SIGTERM)
            case _:
                pass

    for level in ("debug", "info", "warning", "error", "exception"):
        monkeypatch.setattr(Log, level, lambda _, event, **values: take(event, **values))

    async def no_sidecar() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(router._mesh, "run", no_sidecar)
    async with asyncio.timeout(10):
        await router.run()
    (refused,) = log.of("rules_refused")
    assert refused["error"].startswith(f"{file}: m.weights.1 is -1, expected a number from 0")
    assert seen == ["cheapest", "random"]
    assert router._rules.of(ModelName("m")).weights == ((ModelVersion("1"), 2.0),)


def test_an_unknown_policy_ends_the_start_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policy 'best' is unknown; known: affinity, cheapest, "):
        make_router(tmp_path / "data", policy="best")
    assert not (tmp_path / "data").exists()


async def test_a_node_that_is_linked_is_asked_for_its_load_and_is_lost_no_more(
    tmp_path: Path,
) -> None:
    router, _ = make_router(tmp_path)
    heard(router, invite(Role.NODE), 7001)
    (endpoint,) = router._fleet.endpoints()
    endpoint.health.failed(time.monotonic(), is_hard=True, cause="link_lost: reset")
    link = linked(endpoint)
    router._pool.linked(endpoint)
    assert [(probe.model, probe.version) for probe in link.probes] == [("m", "1")]
    assert endpoint.health.state(time.monotonic()) is not CircuitState.INHIBITED
    router._prober.close()
    assert not link.probing


async def test_a_bug_in_a_turn_of_a_router_s_loops_is_logged_and_counted_and_the_next_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, log = make_router(tmp_path)
    for period in ("REPROBE_EVERY_S", "JUDGE_EVERY_S", "TICK_S", "ADVERT_EVERY_S"):
        monkeypatch.setattr(service, period, 0.0)
    supervisor: Counter[str] = Counter()

    def crashing(loop: str) -> Callable[..., None]:
        def turn(*_: object) -> None:
            supervisor[loop] += 1
            raise RuntimeError(f"a bug in {loop}")

        return turn

    monkeypatch.setattr(router._balancer, "reprobes", crashing("reprobe"))
    monkeypatch.setattr(router._routing, "tick", crashing("judge"))
    monkeypatch.setattr(router._hearing.members, "tick", crashing("members"))
    monkeypatch.setattr(router, "_publish", crashing("announce"))
    loops = [
        asyncio.create_task(loop()) for loop in (router._watch, router._tick, router._announce)
    ]
    async with asyncio.timeout(10):
        while len(supervisor) < 4 or min(supervisor.values()) < 3:
            await asyncio.sleep(0)
            assert not any(loop.done() for loop in loops)
    counted = router._telemetry.exposition().decode()
    for loop, times in supervisor.items():
        assert f'capamesh_turns_crashed_total{{loop="{loop}"}} {times:.1f}' in counted
    assert sorted(values["loop"] for values in log.of("turn_crashed")) == sorted(supervisor)
    for task in loops:
        task.cancel()
    await asyncio.wait(loops)


def test_a_router_tells_how_many_nodes_are_in_its_own_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, _ = make_router(tmp_path)
    reported: list[int] = []

    def publish(topic: str, raw: bytes) -> bool:
        assert topic.endswith("/demand")
        envelope = open_envelope(raw, router._trust, time.time_ns() // 10**6)
        peer = envelope.sender.peer_id
        reported.append(router_from_body(envelope.body, peer, envelope.sequence).nodes)
        return True

    monkeypatch.setattr(router._mesh, "publish", publish)
    router._listening(7100)
    router._publish()
    for port in (7001, 7002, 7003):
        heard(router, invite(Role.NODE), port)
    router._publish()
    assert reported == [0, 3]


def test_a_node_is_missed_by_the_interval_that_it_reported(tmp_path: Path) -> None:
    router, log = make_router(tmp_path)
    router._clock.resume(time.monotonic())
    often, seldom = (Membership.join(Identity.generate(), invite(Role.NODE), NOW) for _ in "ab")
    says(router, often, 7001, Sequence(1, 1), interval_s=10)
    says(router, seldom, 7002, Sequence(1, 1), interval_s=100)
    now_s = router._clock.now_s(time.monotonic())
    router._apply(router._hearing.members.tick(now_s + 340))
    assert log.of("node_left") == [{"peer": often.identity.peer_id, "reason": "expired"}]
    router._apply(router._hearing.members.tick(now_s + 351))
    assert log.of("node_left")[1] == {"peer": seldom.identity.peer_id, "reason": "expired"}


def test_an_advert_that_says_the_same_again_is_read_once_and_keeps_its_node(tmp_path: Path) -> None:
    router, log = make_router(tmp_path)
    node = Membership.join(Identity.generate(), invite(Role.NODE), NOW)
    peer = says(router, node, 7001, Sequence(1, 1))
    first = router._hearing.members.members()[peer]
    says(router, node, 7001, Sequence(1, 2))
    second = router._hearing.members.members()[peer]
    assert second.sequence == Sequence(1, 2)
    assert second.devices is first.devices
    assert [event for event, _ in log.events] == ["node_joined"]
    router._apply(router._hearing.expel(peer, router._now()))
    assert len(router._hearing._reader) == 0


def test_a_request_that_the_rules_keep_from_every_node_is_not_reported_to_come_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[m]\nregions = ["eu"]\n')
    router, _ = make_router(tmp_path / "data", rules_file=file)
    heard(router, invite(Role.NODE), 7001)
    target = InferTarget(ModelName("m"), ModelVersion(""))
    error = router._inference.nobody(target, NoEndpoint("nobody can be reached"))
    assert isinstance(error, Unsatisfiable)
    assert "(1 of 1: region unknown is not eu)" in error.message


# the last fleet


def restart(
    folder: Path, router: Router, edit: Callable[[bytes], bytes] = bytes
) -> tuple[Router, Log]:
    """Return another router on the folder, which has read the fleet that the first one kept."""
    router._write_fleet(edit(router._last_fleet.encode(time.time_ns() // 10**6)))
    again, log = make_router(folder)
    again._pool.keep = lambda _: None  # type: ignore[method-assign]  # it has no loop to dial in
    again._restore()
    return again, log


def test_a_router_that_starts_again_knows_the_fleet_that_it_knew_last(tmp_path: Path) -> None:
    router, _ = make_router(tmp_path)
    member = Membership.join(Identity.generate(), invite(Role.NODE), NOW)
    numbers = SequenceSource(time.time_ns())
    peer = says(router, member, 1, numbers.next())
    gone = heard(router, invite(Role.NODE), 2)
    router._apply(router._hearing.expel(PeerId(gone), router._now()))
    again, log = restart(tmp_path, router)
    assert list(again._fleet.adverts) == [peer]
    assert [each.address for each in again._fleet.endpoints()] == ["127.0.0.1:1"]
    assert log.of("last_fleet_restored") == [{"nodes": 1}]
    says(again, member, 3, numbers.next())
    assert [each.address for each in again._fleet.endpoints()] == ["127.0.0.1:3"]


def test_a_kept_node_that_was_revoked_meanwhile_or_is_no_member_is_not_taken(
    tmp_path: Path,
) -> None:
    router, _ = make_router(tmp_path)
    token = invite(Role.NODE)
    peer = heard(router, token, 1)
    other = heard(router, invite(Role.NODE), 2)
    kept = router._last_fleet.encode(time.time_ns() // 10**6)
    now = dt.datetime.now(dt.UTC)
    empty = RevocationList.empty(OWNER.network_id)
    router._revoke(OWNER.revoke(empty, peers=[PeerId(peer)], now=now).encode())
    again, log = restart(tmp_path, router, lambda _: kept)
    assert list(again._fleet.adverts) == [other]
    assert log.of("last_fleet_member_refused") == [{"reason": "membership"}]


@pytest.mark.parametrize("damage", ["none", "junk", "cut", "forged"])
def test_a_last_fleet_that_is_damaged_is_a_warning_and_no_more(tmp_path: Path, damage: str) -> None:
    router, _ = make_router(tmp_path)
    heard(router, invite(Role.NODE), 1)

    def edit(kept: bytes) -> bytes:
        changed = bytearray(kept)
        changed[-1] ^= 1
        return {"junk": b"junk", "cut": kept[:-1], "forged": bytes(changed)}.get(damage, kept)

    again, log = restart(tmp_path, router, edit)
    if damage == "none":
        (tmp_path / LAST_FLEET_FILE).unlink()
        again._restore()
        assert log.of("last_fleet_not_used") == []
        assert len(again._fleet.adverts) == 1
        return
    assert list(again._fleet.adverts) == []
    is_read = damage == "forged"
    assert len(log.of("last_fleet_not_used")) == (not is_read)
    assert len(log.of("last_fleet_member_refused")) == is_read


def test_a_disk_that_refuses_the_last_fleet_is_reported_of_once(tmp_path: Path) -> None:
    router, log = make_router(tmp_path)
    (tmp_path / LAST_FLEET_FILE).mkdir()
    for _ in range(3):
        router._write_fleet(b"x")
    assert len(log.of("last_fleet_not_kept")) == 1


@in_virtual_time
async def test_a_member_that_comes_and_goes_has_the_last_fleet_written_six_times_and_then_every_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, _ = make_router(tmp_path)
    loop, written_s = asyncio.get_running_loop(), list[float]()
    monkeypatch.setattr(router, "_write_fleet", lambda _: written_s.append(loop.time()))

    async def at_once(function: Callable[[bytes], None], data: bytes) -> None:
        function(data)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    keeping = asyncio.create_task(router._keep_fleet())
    for _ in range(80):
        router._last_fleet.is_changed = True
        await asyncio.sleep(0.5)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert written_s == [
        1.0,
        2.0,
        3.0,
        4.0,
        5.0,
        6.0,
        12.0,
        22.0,
        32.0,
        40.0,
    ]  # the last as it ends
