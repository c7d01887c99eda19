"""The process that reads inputs, without the process: what it makes of what the router says."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from capamesh.protocol.channel.blocking_channel import BlockingChannel
from capamesh.protocol.schema import plain_values
from capamesh.router.jobs.readers import child
from capamesh.router.jobs.spec import InputFormat, InputSpec


class Said:
    """A channel on which a test has said all that there is, and what the child said."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self._messages = list(messages)
        self.answers: list[Mapping[str, Any]] = []

    def next(self) -> Mapping[str, Any] | None:
        return self._messages.pop(0) if self._messages else None

    def send(self, message: Mapping[str, Any]) -> None:
        self.answers.append(message)


def test_stop_within_a_read_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_limit_cpu", lambda: None)  # it would bound this process
    spec = InputSpec("/in.npz", InputFormat.NPZ, {"x": ("a",)})
    said = Said(
        [
            {"type": "look", "input": plain_values(spec), "name": "in.npz"},
            {"type": "answer", "is_here": False, "file": 0, "size_bytes": 1000, "changed": ""},
            {"type": "stop"},
        ]
    )
    router = child.RouterChannel(cast("BlockingChannel", said), cast("socket.socket", None))
    child.serve(router, -1, 2**30)
    assert [(each["type"], each["what"]) for each in said.answers] == [
        ("call", "open"),
        ("call", "read"),
    ]
