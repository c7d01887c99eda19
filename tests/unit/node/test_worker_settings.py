from __future__ import annotations

import dataclasses
from pathlib import Path

from capamesh.node.settings import NodeSettings
from capamesh.node.worker.process import WorkerSettings
from capamesh.node.worker.run_loop import MAX_QUEUED
from capamesh.protocol.packed import pack, unpack

SETTINGS = WorkerSettings(
    membership_folder="/data",
    models_folder="/models",
    device_index=1,
    device_uuid="GPU-1",
    device_kind="cuda",
    device_name="some GPU",
    memory_total_bytes=2**40,
    memory_free_bytes=2**39,
    threads=4,
    host="127.0.0.1",
    port=7001,
    advertised_host="node.example",
    max_in_flight=9,
    is_dialing=True,
)


def test_a_worker_s_settings_survive_the_channel() -> None:
    message = unpack(pack(SETTINGS.to_message()), max_array_items=0)
    assert isinstance(message, dict)
    assert message["type"] == "start"
    assert WorkerSettings.from_message(message) == SETTINGS
    assert set(message) == {"type", *(one.name for one in dataclasses.fields(SETTINGS))}


def test_a_node_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    settings = NodeSettings(Path("data"), Path("models"))
    assert settings.host == "127.0.0.1"
    assert (settings.port, settings.mesh_port) == (0, 0)
    assert settings.max_in_flight == MAX_QUEUED
    assert not settings.is_dialing
    assert not settings.use_mdns
