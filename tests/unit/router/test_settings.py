from __future__ import annotations

from pathlib import Path

from capamesh.router.settings import RouterSettings

SETTINGS = RouterSettings(Path("data"))


def test_router_does_not_listen_beyond_this_machine_unless_told_to() -> None:
    assert {SETTINGS.http_host, SETTINGS.mesh_host, SETTINGS.link_host} == {"127.0.0.1"}
    assert SETTINGS.advertised_host == ""
    assert not SETTINGS.use_mdns
