from __future__ import annotations

import dataclasses
from pathlib import Path

from capamesh.node.agent.settings import MAX_IN_FLIGHT, NodeSettings
from capamesh.node.contract.settings import WorkerSettings
from capamesh.protocol.msgpack_codec import pack, unpack

SETTINGS = WorkerSettings(
    membership_folder="/data",
    models_folder="/models",
    device_index=1,
    device_uuid="GPU-1",
    device_kind="cuda",
    device_name="some GPU",
    memory_total_bytes=2**40,
    memory_free_bytes=2**39,
    driver="580.1",
    threads=4,
    memory_limit_bytes=2**38,
    watchdog_s=12.5,
    poll_s=0.5,
    is_controllable=True,
    load_limit_s=99.5,
    verdicts=[
        {"name": "m", "version": "1", "refused": {"00": 1.5}, "suspects": ["11"], "held_s": 9.0}
    ],
    running_page="/data/running-1",
    cache_folder="/data/cache",
    host="127.0.0.1",
    port=7001,
    advertised_host="node.example",
    max_in_flight=9,
    is_dialing=True,
    is_sandboxed=True,
)


def test_a_worker_s_settings_survive_the_channel() -> None:
    message = unpack(pack(SETTINGS.to_message()), max_array_items=1)
    assert isinstance(message, dict)
    assert message["type"] == "start"
    assert WorkerSettings.from_message(message) == SETTINGS
    assert set(message) == {"type", *(one.name for one in dataclasses.fields(SETTINGS))}


def test_a_node_is_open_to_nobody_unless_reported_otherwise() -> None:
    settings = NodeSettings(Path("data"), Path("models"))
    assert settings.host == "127.0.0.1"
    assert (settings.port, settings.mesh_port) == (0, 0)
    assert settings.metrics_host == ""
    assert not settings.is_controllable
    assert not settings.is_dialing
    assert not settings.use_mdns


def test_a_node_follows_its_folder_and_bounds_its_models_unless_reported_otherwise() -> None:
    settings = NodeSettings(Path("data"), Path("models"))
    assert settings.max_in_flight == MAX_IN_FLIGHT == 512
    assert (settings.poll_s, settings.watchdog_s) == (2.0, 60.0)
    assert settings.load_limit_s == 600.0
    assert settings.memory_limit_bytes == 0
