"""The parts of one router: what keeps it from starting, and how the parts hold together."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog, advert
from fleet_members import EventLog
from router_parts import made_parts

from capamesh.protocol import advertised_address as outward
from capamesh.protocol.errors import ConfigError, LinkLost, NoEndpoint, Unsatisfiable
from capamesh.protocol.fleet import Changed, Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.access.operator_key import KEY_FILE
from capamesh.router.http.exchange import InferTarget
from capamesh.router.process.parts import RouterParts
from capamesh.router.rules.constraints import Constraints
from capamesh.router.rules.model_rules import ModelRules


def make_parts(folder: Path, **settings: Any) -> RouterParts:
    return made_parts(folder, NullLog(), **settings)


def hear_a_node(parts: RouterParts) -> None:
    parts.members.apply([Joined(advert("A", "127.0.0.1:1"))])


def test_address_that_nobody_can_be_reported_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def source(family: int) -> str:
        return "10.1.2.3" if family == socket.AF_INET else ""

    monkeypatch.setattr(outward, "_source_of_default_route", source)
    with pytest.raises(ConfigError, match="--advertise"):
        make_parts(tmp_path, link_host="::")


def test_rules_file_that_is_not_there_ends_the_start_by_its_name(tmp_path: Path) -> None:
    missing = tmp_path / "no such rules.toml"
    with pytest.raises(ConfigError) as refusal:
        make_parts(tmp_path / "data", rules_file=missing)
    assert refusal.value.message == f"the rules file {missing} does not exist"
    with pytest.raises(ConfigError, match="cannot read the rules file"):
        make_parts(tmp_path / "data", rules_file=tmp_path)  # a folder
    assert not (tmp_path / "data").exists()  # nothing is begun that is not finished


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[m", " is not TOML: "),
        (b"\xff\xfe", " is not TOML: "),
        (b'[m]\npolicy = "best"', ": m.policy is 'best', expected one of affinity, "),
        (
            b"[m]\nhedges = true",
            ": unknown key m.hedges (did you mean hedge?); allowed keys are policy, ",
        ),
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
        make_parts(tmp_path / "data", rules_file=file)
    assert f"{file}{what}" in refusal.value.message


def test_rules_hold_for_the_models_that_they_name_and_the_settings_for_all_others(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[m]\npolicy = "cheapest"\nregions = ["eu"]\nretry = false\n')
    parts = make_parts(tmp_path / "data", rules_file=file, policy="p2c")
    hear_a_node(parts)
    served = parts.balancer.served(ModelName("m"), ModelVersion(""))
    assert (served.policy.name, served.rules.constraints) == (
        "cheapest",
        Constraints(regions=frozenset({"eu"})),
    )
    assert (served.rules.is_retried, served.rules.is_hedged) == (False, True)
    assert parts.balancer._rules.of(ModelName("x")) == ModelRules(policy="p2c")


def test_unknown_policy_ends_the_start_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policy 'best' is unknown; known: affinity, cheapest, "):
        make_parts(tmp_path / "data", policy="best")
    assert not (tmp_path / "data").exists()


def test_request_that_the_rules_keep_from_every_node_is_not_reported_to_come_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[m]\nregions = ["us"]\n')
    parts = make_parts(tmp_path / "data", rules_file=file)
    hear_a_node(parts)
    target = InferTarget(ModelName("m"), ModelVersion(""))
    error = parts.inference.nobody(target, NoEndpoint("nobody can be reached"))
    assert isinstance(error, Unsatisfiable)
    assert "(1 of 1: region eu is not us)" in error.message


def test_router_that_starts_leaves_a_key_for_its_operator(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    authorization = f"Bearer {(tmp_path / KEY_FILE).read_text().strip()}"
    assert parts.operator_key.opens(authorization)


def test_verdict_on_a_node_is_logged(tmp_path: Path) -> None:
    log = EventLog()
    parts = made_parts(tmp_path, log)
    hear_a_node(parts)
    now_s = parts.clocks.steady_s()
    served = parts.balancer.served(ModelName("m"), ModelVersion("1"))
    served.failed(served.replicas[0], LinkLost("reset"), 0.1, now_s)
    parts.watch._judge()
    assert log.of("node_inhibited") == [
        {
            "node": "",
            "peer": "A",
            "address": "127.0.0.1:1",
            "model": "",
            "version": "",
            "reason": "link_lost: reset",
        }
    ]


def test_news_of_a_node_wakes_who_waits_for_a_link(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    woken: list[str] = []
    links = parts.balancer.links
    first = advert("A", "a:1")
    for change in (Joined(first), Changed(advert("A", "a:1", counter=2), first)):
        links.add("a request", lambda: woken.append("a request"))
        parts.members.apply([])
        assert len(links) == 1
        parts.members.apply([change])
        assert len(links) == 0
    assert len(woken) == 2
