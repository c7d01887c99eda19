from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from capamesh.router.settings import RouterSettings

SETTINGS = RouterSettings(Path("data"))


def test_router_does_not_listen_beyond_this_machine_unless_told_to() -> None:
    assert {SETTINGS.http_host, SETTINGS.mesh_host, SETTINGS.link_host} == {"127.0.0.1"}
    assert SETTINGS.advertised_host == ""
    assert not SETTINGS.use_mdns


def test_defaults_are_those_that_the_handbook_names() -> None:
    assert (SETTINGS.http_port, SETTINGS.mesh_port, SETTINGS.link_port) == (8000, 4001, 4100)
    assert (SETTINGS.timeout_s, SETTINGS.arrival_s, SETTINGS.drain_s) == (30.0, 30.0, 30.0)
    assert (SETTINGS.token, SETTINGS.bootstrap, SETTINGS.region) == (None, (), "")
    limits = SETTINGS.limits
    assert limits.max_message_bytes == 64 * 2**20
    assert (limits.max_json_bytes, limits.max_json_answer_bytes) == (4 * 2**20, 16 * 2**20)
    assert SETTINGS.body_budget_bytes == SETTINGS.max_connections == 0


def test_settings_do_not_change_once_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SETTINGS.http_port = 1  # type: ignore[misc]
