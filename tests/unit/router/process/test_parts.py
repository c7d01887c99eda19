"""The parts of one router: what keeps it from starting, and how the parts hold together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog, advert
from fleet_members import EventLog
from router_http import made_parts

from capamesh.protocol.errors import ConfigError, LinkLost
from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.process.parts import RouterParts


def make_parts(folder: Path, **settings: Any) -> RouterParts:
    return made_parts(folder, NullLog(), **settings)


def hear_a_node(parts: RouterParts) -> None:
    parts.members.apply([Joined(advert("A", "127.0.0.1:1"))])


def test_rules_file_that_is_not_there_ends_the_start_by_its_name(tmp_path: Path) -> None:
    missing = tmp_path / "no such rules.toml"
    with pytest.raises(ConfigError) as refusal:
        make_parts(tmp_path / "data", rules_file=missing)
    assert refusal.value.message == f"the rules file {missing} does not exist"
    with pytest.raises(ConfigError, match="cannot read the rules file"):
        make_parts(tmp_path / "data", rules_file=tmp_path)  # a folder
    assert not (tmp_path / "data").exists()  # nothing is begun that is not finished


def test_unknown_policy_ends_the_start_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policy 'best' is unknown; known: affinity, cheapest, "):
        make_parts(tmp_path / "data", policy="best")
    assert not (tmp_path / "data").exists()


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
