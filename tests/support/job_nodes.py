"""Nodes that run the rows of jobs in virtual time: each has a queue, rows that are refused, fail or end its worker, and may be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from typing_extensions import override

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    LinkLost,
    NoEndpoint,
    Overloaded,
    RunFailed,
    Unsatisfiable,
)
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.protocol.tensors import Tensor
from capamesh.router.jobs.running.nodes import (
    BulkCall,
    Crowd,
    Ended,
    Hosting,
    Nodes,
    OnEnd,
    Started,
)
from capamesh.router.jobs.values import Pinned

INPUTS = {"x": TensorSpec("x", Datatype.FP32, (-1,))}
OUTPUTS = (TensorSpec("y", Datatype.FP32, (-1,)),)


@dataclass(eq=False)
class FakeNode:
    """One node, whose model doubles numbers."""

    id: str
    row_s: float = 0.001
    price_per_million: float = 0.0
    is_up: bool = True
    free_s: float = 0.0
    """The time when it has run all that it has."""
    calls: list[FakeCall] = field(default_factory=list)
    deaths: int = 0
    most_calls: int = 10**9
    """More calls than that it refuses."""
    hangs: bool = False
    boot: int = 1
    words: int = 1
    """The number of its agent's newest word."""
    remembered: set[float] = field(default_factory=set)
    """The values that it refuses where they come alone, for workers have ended under them."""


class At(Started):
    """A call that is at a node for ever."""

    def __init__(self, node: str) -> None:
        self._node = node

    @property
    @override
    def node(self) -> str:
        return self._node

    place = node

    @override
    def cancel(self) -> None:
        """Do nothing."""


class FakeCall(Started):
    def __init__(self, nodes: FakeNodes, call: BulkCall, on_end: OnEnd) -> None:
        self.call = call
        self._nodes = nodes
        self._on_end: OnEnd | None = on_end
        self.at: FakeNode | None = None
        self.timers: list[asyncio.TimerHandle] = []

    @property
    @override
    def node(self) -> str:
        return "" if self.at is None else self.at.id

    place = node

    @override
    def cancel(self) -> None:
        self._on_end = None
        self._leave()

    def later(self, seconds: float, do: Callable[..., None], *given: Any) -> None:
        """Do something unless the call is over by then."""
        self.timers.append(asyncio.get_running_loop().call_later(seconds, do, *given))

    def end(self, answer: InferAnswer | None, error: CapameshError | None = None) -> None:
        on_end, self._on_end = self._on_end, None
        node = self.node
        price = 0.0 if self.at is None else self.at.price_per_million
        self._leave()
        if on_end is None:
            return
        if answer is not None:
            self._nodes.answered_rows += self.call.rows
            self._nodes.paid += self.call.rows * price
        is_over = self._nodes.is_over_quota
        on_end(Ended(answer, error, node, node.upper(), is_over, price_per_million=price))

    def _leave(self) -> None:
        for timer in self.timers:
            timer.cancel()
        if self.at is not None and self in self.at.calls:
            self.at.calls.remove(self)
        self._nodes.under_way.discard(self)


class FakeNodes(Nodes):
    def __init__(self, *names: str, best_rows: int = 8, row_s: float = 0.001) -> None:
        self.nodes = {name: FakeNode(name, row_s) for name in names or ("a", "b")}
        self.best_rows = best_rows
        self.row_s = row_s
        self.refused: set[float] = set()
        self.failing: set[float] = set()
        self.deadly: set[float] = set()
        """The values that end the worker that runs them."""
        self.fatal: set[float] = set()
        """The values that end the whole node that runs them."""
        self.is_hosted = True
        self.is_over_quota = False
        self.room_calls = 1000
        self.restart_s = 2.0
        self.under_way: set[FakeCall] = set()
        self.most_under_way = 0
        self.sent: list[BulkCall] = []
        self.ran: dict[float, int] = {}
        """The times that each value was run to its end."""
        self.answered_rows = 0
        """The rows of all calls of which somebody heard the answer."""
        self.paid = 0.0
        """The sum of the prices of a million rows, one for each of those."""
        self.on_start: Callable[[], None] = lambda: None
        self.people: dict[str, Crowd] = {}

    @override
    def hosting(self, pinned: Pinned, model: str) -> Hosting | None:
        if not self.is_hosted:
            return None
        names = frozenset(self.nodes)
        return Hosting(INPUTS, OUTPUTS, names, self.best_rows, self.row_s, self.row_s)

    @override
    def absence(self, pinned: Pinned, model: str) -> str:
        return f"no node has {model}"

    @override
    def room(self, pinned: Pinned, model: str, rows: int) -> int:
        return self.room_calls

    @override
    def crowds(self, pinned: Pinned, model: str) -> dict[str, Crowd]:
        return self.people

    @override
    def word_of(self, node: str) -> tuple[int, int] | None:
        found = self.nodes.get(node)
        return None if found is None else (found.boot, found.words)

    @override
    def idle_rows_per_s(self, model: str, version: str) -> float | None:
        return len(self.nodes) / self.row_s if self.is_hosted else None

    @override
    def start(self, call: BulkCall, on_end: OnEnd) -> Started:
        self.on_start()
        self.sent.append(call)
        started = FakeCall(self, call, on_end)
        self.under_way.add(started)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        allowed = [
            node
            for node in self.nodes.values()
            if call.only_at in {"", node.id} and node.id not in call.not_at
        ]
        up = [node for node in allowed if node.is_up]
        if not up:
            none = NoEndpoint("nobody is there") if allowed else Unsatisfiable("nobody may")
            started.end(None, none)
            return started
        node = min(up, key=lambda each: len(each.calls))
        now_s = asyncio.get_running_loop().time()
        if len(node.calls) >= node.most_calls:
            started.later(0.001, started.end, None, Overloaded("full", 0.05))
            return started
        started.at = node
        node.calls.append(started)
        began_s = max(now_s, node.free_s)
        run_s = call.rows * node.row_s
        if not node.hangs:
            node.free_s = began_s + run_s
            started.later(node.free_s - now_s, self._ran, started, began_s - now_s, run_s)
        started.later(call.allowed_s, started.end, None, DeadlineExceeded("too late"))
        return started

    def _ran(self, started: FakeCall, queue_s: float, run_s: float) -> None:
        node = started.at
        assert node is not None
        values: Any = started.call.inputs[0].to_numpy()
        found = set(values.tolist())
        if found & self.deadly:
            self.kill(node.id, is_worker_only=True)
        elif found & self.fatal:
            self.kill(node.id)
        elif found & self.refused or found <= node.remembered:
            started.end(None, InvalidRequest("a value is wrong"))
        elif found & self.failing:
            started.end(None, RunFailed("the run has failed"))
        else:
            for value in values.tolist():
                self.ran[value] = self.ran.get(value, 0) + 1
            output = Tensor.from_numpy("y", (values * 2).astype(np.float32))
            queue_us, run_us = int(queue_s * 1e6), int(run_s * 1e6)
            started.end(InferAnswer(ModelVersion("1"), (output,), queue_us, run_us, LoadReport()))

    def kill(self, name: str, *, is_worker_only: bool = False) -> None:
        """End a node, or its worker, with all calls that it has; it is back after `restart_s`."""
        node = self.nodes[name]
        if not node.is_up:
            return
        node.is_up = False
        node.deaths += 1
        node.free_s = 0.0
        for call in list(node.calls):
            error = LinkLost("the link has ended")
            error.is_sudden = True
            call.end(None, error)
        node.words += is_worker_only
        loop = asyncio.get_running_loop()
        loop.call_later(self.restart_s, self._revive, node, is_worker_only)

    def _revive(self, node: FakeNode, is_worker_only: bool) -> None:
        node.is_up = True
        node.boot += not is_worker_only
        node.words += 1
