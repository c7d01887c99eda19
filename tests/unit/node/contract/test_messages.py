from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fleet_fakes import device_offer, offer

from capamesh.node.contract.messages import (
    MAX_REASON_CHARS,
    Drain,
    Drained,
    Links,
    Metrics,
    Renewed,
    Revocations,
    Routers,
    Sandboxed,
    Start,
    Stop,
    Stuck,
    Survived,
    ToAgent,
    ToWorker,
    agent_message,
    to_wire,
    worker_message,
)
from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.contract.verdict import Verdict
from capamesh.protocol.adverts import ModelState, Scheduling
from capamesh.protocol.channel.framing import unpack
from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import PeerId
from capamesh.protocol.msgpack_codec import pack

SETTINGS = WorkerSettings(
    4, 9, 8, 0.5, True, 2**38, 12.5, 99.5, is_dialing=True, is_sandboxed=False
)
START = Start(
    SETTINGS,
    membership_folder="/data",
    models_folder="/models",
    device_index=1,
    device_uuid="GPU-1",
    device_kind="cuda",
    device_name="some GPU",
    memory_total_bytes=2**40,
    memory_free_bytes=2**39,
    driver="580.1",
    verdicts=(Verdict("m", "1", "", "it died", held_s=9.0, refused={"00": 1.5}, suspects=("11",)),),
    running_page="/data/running-1",
    cache_folder="/data/cache",
    host="127.0.0.1",
    port=7001,
    advertised_host="node.example",
)
OFFER = dataclasses.replace(
    offer("m", state=ModelState.FAILED),
    reason="it fell over",
    scheduling=Scheduling.SEQUENCE,
    signed=b"key and signature",
    also_signed=(b"another",),
    row_us=17,
    is_idempotent=False,
)
TO_WORKER: list[ToWorker] = [
    START,
    Revocations(b"list"),
    Routers({PeerId("r"): ("h:1", "h:2"), PeerId("s"): ()}),
    Renewed((b"leaf", b"invite"), b"ca"),
    Drain(),
    Stop(),
]
TO_AGENT: list[ToAgent] = [
    Sandboxed("landlock"),
    device_offer("h:1", models=[OFFER, offer("n")]),
    Metrics([{"name": "m", "rows": 3}], {"busy_s": {}}),
    Links(3),
    Survived("m", "1", ("00", "11"), 7),
    Stuck("a run does not stop"),
    Drained(),
]


def crossed(message: ToWorker | ToAgent) -> Any:
    """Return what comes out of the channel."""
    return unpack(pack(to_wire(message)))


@pytest.mark.parametrize("message", [*TO_WORKER, *TO_AGENT], ids=lambda message: message.TYPE)
def test_message_reaches_the_other_side_as_it_was(message: ToWorker | ToAgent) -> None:
    taken, refused, side = worker_message, agent_message, "agent"
    if message in TO_AGENT:
        taken, refused, side = agent_message, worker_message, "worker"
    assert taken(crossed(message)) == message
    with pytest.raises(ProtocolViolation, match=f"to the {side}"):
        refused(crossed(message))


@pytest.mark.parametrize(
    "raw",
    [
        {"type": "offer", "device": {}, "models": []},
        {"type": "offer", "device": {"data_addresses": []}, "models": [{}]},
        {"type": "links", "count": 1, "more": 2},
        {"type": "tomorrow"},
    ],
)
def test_message_that_does_not_fit_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation):
        agent_message(raw)


def test_reason_crosses_whatever_an_error_s_text_was() -> None:
    text = "line 1\nline 2 \udcff " + "x" * MAX_REASON_CHARS
    failed = device_offer(models=[dataclasses.replace(OFFER, reason=text)])
    (back,) = agent_message(crossed(failed)).models
    assert len(back.reason) == MAX_REASON_CHARS
    assert back.reason.startswith("line 1")
    assert not set(back.reason) & {"\n", "\udcff"}
