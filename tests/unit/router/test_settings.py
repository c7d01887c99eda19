from __future__ import annotations

from pathlib import Path

from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.policies import POLICIES
from capamesh.router.settings import RouterSettings


def test_nothing_listens_beyond_this_machine_unless_told_to() -> None:
    settings = RouterSettings(Path("data"))
    assert {settings.http_host, settings.mesh_host, settings.link_host} == {"127.0.0.1"}
    assert settings.policy in POLICIES
    assert settings.limits is DEFAULT_LIMITS
