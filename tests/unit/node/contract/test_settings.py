from __future__ import annotations

from pathlib import Path

from capamesh.node.agent.settings import NodeSettings
from capamesh.node.contract.settings import MAX_IN_FLIGHT, MAX_STREAMS
from capamesh.protocol.links.frames import LinkLimits


def test_node_is_open_to_nobody_unless_reported_otherwise() -> None:
    settings = NodeSettings(Path("data"), Path("models"))
    assert settings.host == "127.0.0.1"
    assert (settings.port, settings.mesh_port) == (0, 0)
    assert settings.metrics_host == ""
    assert not settings.worker.is_controllable
    assert not settings.worker.is_dialing
    assert not settings.use_mdns


def test_node_follows_its_folder_and_bounds_its_models_unless_reported_otherwise() -> None:
    settings = NodeSettings(Path("data"), Path("models"))
    assert settings.worker.max_in_flight == MAX_IN_FLIGHT == 4096
    assert settings.worker.max_streams == MAX_STREAMS < LinkLimits().streams - MAX_IN_FLIGHT
    assert (settings.worker.poll_s, settings.worker.watchdog_s) == (2.0, 60.0)
    assert settings.worker.load_limit_s == 600.0
    assert settings.worker.memory_limit_bytes == 0
