"""Models, switches and clocks in which a test says what happens and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fleet_fakes import OUT, SPEC
from patience import LIMIT_S

from capamesh.node.repository import Manifest, ModelSource, VerifiedContent
from capamesh.node.repository.chunks import ChunkList
from capamesh.node.repository.rules import BatchingRules, Rules
from capamesh.node.runtime.api import StopSwitch
from capamesh.node.scheduling import (
    BatchPlan,
    DynamicBatcher,
    MemoryBudget,
    RunBounds,
    Suspicion,
)
from capamesh.node.scheduling.run_need import RunNeed
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import InvalidRequest, RunFailed
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tensors import Tensor, TensorSpec

SHORT = ServiceProfile((ProfilePoint(1, 1e-5), ProfilePoint(64, 1e-4)))
"""Of a model that runs in the event loop."""
LONG = ServiceProfile((ProfilePoint(1, 10.0), ProfilePoint(64, 20.0)))
"""Of one that runs in threads, however much quicker than that its first runs are."""


class FakeClock:
    """Stands still until a test moves it."""

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class FakeSwitch:
    """Remembers that it was used, and wakes the run that it was given to."""

    def __init__(self) -> None:
        self.is_used = False
        self._gate = threading.Event()

    def stop(self) -> None:
        self.is_used = True
        self._gate.set()

    def wakes(self, gate: threading.Event) -> None:
        """Open `gate` when used."""
        self._gate = gate
        if self.is_used:
            gate.set()


class FakeModel:
    """`y = 2 x` over rows of two numbers, as a test lets it.

    A run waits at the gate, which is open at first; a stop switch opens it, unless the model is deaf. `act`
    sees the first number of every row and may raise.
    """

    def __init__(
        self, inputs: tuple[TensorSpec, ...] = SPEC, outputs: tuple[TensorSpec, ...] = OUT
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.provider = "CPUExecutionProvider"
        self.precision = "fp32"
        self.is_data_dependent = False
        self.is_random = False
        self.notes: tuple[str, ...] = ()
        self.gate = threading.Event()
        self.gate.set()
        self.is_deaf = False
        self.act: Callable[[list[float]], object] = lambda _: None
        self.ran: list[list[float]] = []
        """The first numbers of the rows of every run."""
        self.wanted: list[tuple[str, ...]] = []
        self.threads: list[threading.Thread] = []
        self.switches: list[FakeSwitch | None] = []
        self.is_closed = False
        self._started = threading.Semaphore(0)

    def wait_started(self) -> None:
        """Wait for one more run to have started; blocks."""
        assert self._started.acquire(timeout=LIMIT_S)

    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        specs = {spec.name: spec for spec in self.inputs}
        known = {spec.name for spec in self.outputs}
        if {tensor.name for tensor in inputs} != set(specs) or not set(outputs) <= known:
            raise InvalidRequest(f"the model takes {', '.join(specs)} alone and gives {known}")
        for tensor in inputs:
            if problem := specs[tensor.name].accepts(tensor.datatype, tensor.shape):
                raise InvalidRequest(problem)

    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> Any:
        array = inputs[0].to_numpy()
        values = [float(row[0]) for row in array]
        self.ran.append(values)
        self.wanted.append(tuple(outputs))
        self.threads.append(threading.current_thread())
        assert stop is None or isinstance(stop, FakeSwitch)
        self.switches.append(stop)
        if stop is not None and not self.is_deaf:
            stop.wakes(self.gate)
        self._started.release()
        assert self.gate.wait(LIMIT_S)
        if stop is not None and stop.is_used:
            raise RunFailed("the run was stopped before its end")
        given = self.act(values)
        return given if given is not None else [Tensor.from_numpy("y", array * np.float32(2))]

    def give_back(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        self.is_closed = True


def engine_of(
    model: FakeModel,
    *,
    profile: ServiceProfile | None = SHORT,
    batch_rows: int = 8,
    max_delay_us: int = 0,
    instances: int = 1,
    suspicion: Suspicion | None = None,
    **engine: Any,
) -> DynamicBatcher:
    """Return the engine of a model whose requests share batches of `batch_rows`; 0: they run alone."""
    plan = BatchPlan(
        model.inputs,
        model.outputs,
        is_batching=batch_rows > 0,
        batch_rows=max(batch_rows, 1),
    )
    rules = Rules(batching=BatchingRules(max_delay_us=max_delay_us), instances=instances)
    bounds = RunBounds(plan, RunNeed(2, 1.0), profile, MemoryBudget(0), suspicion=suspicion)
    return DynamicBatcher(plan, rules, profile, bounds=bounds, **{"max_in_flight": 100, **engine})


def source_of(
    name: str = "m",
    version: str = "1",
    *,
    digest: str = "",
    size_bytes: int = 0,
    manifest: Manifest | None = None,
) -> ModelSource:
    """Return a source without a file; `digest` in a word."""
    return ModelSource(
        ModelName(name),
        ModelVersion(version),
        VerifiedContent(
            Path(f"{name}/{version}/model.onnx"),
            "sha256-chunks:" + (digest or "0").rjust(64, "0"),
            size_bytes,
            ChunkList(()),
            (),
            0,
        ),
        manifest or Manifest(),
    )
