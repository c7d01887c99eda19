"""The model that nodes of a world host: its answers are known, its runs take virtual time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from capamesh.node.repository import Manifest, ModelSource, VerifiedContent
from capamesh.node.repository.chunks import ChunkList
from capamesh.node.repository.rules import BatchingRules, Rules
from capamesh.node.runtime.api import LoadedModel, StopSwitch
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.model_digest import ALGORITHM
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.simulation.world.virtual_threads import RUNNING

NAME = "m"
INPUTS = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
OUTPUTS = (TensorSpec("y", Datatype.FP32, (-1, 2)),)
BATCH_ROWS = 8
FIRST_ROW_S = 0.04
"""Seconds of a run of one row."""
PROFILE = ServiceProfile((ProfilePoint(1, FIRST_ROW_S), ProfilePoint(BATCH_ROWS, 2 * FIRST_ROW_S)))


def answer_to(x: float) -> float:
    """Return what the model gives for a number."""
    return 2 * x + 1


class Switch(StopSwitch):
    """Stops one run."""

    def __init__(self) -> None:
        self.is_used = False

    @override
    def stop(self) -> None:
        self.is_used = True


class WorldModel(LoadedModel):
    """`y = 2 x + 1` of rows of two numbers."""

    def __init__(
        self,
        slowness: Callable[[], float],
        fault: Callable[[], CapameshError | None],
        ran: Callable[[list[float]], None],
    ) -> None:
        """`slowness` says how many times longer than usual a run takes that begins now, `fault` how it fails; None: it does not.

        `ran` is told what ran, by its first numbers.
        """
        self.inputs, self.outputs = INPUTS, OUTPUTS
        self.provider, self.precision = "CPUExecutionProvider", "fp32"
        self.is_data_dependent = self.is_random = False
        self.notes = ()
        self._slowness = slowness
        self._fault = fault
        self._ran = ran

    @override
    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        if [tensor.name for tensor in inputs] != ["x"] or not set(outputs) <= {"y"}:
            raise InvalidRequest("the model takes x alone and gives y")
        if problem := INPUTS[0].accepts(inputs[0].datatype, inputs[0].shape):
            raise InvalidRequest(problem)

    @override
    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        array = inputs[0].to_numpy()
        error = self._fault()
        if error is not None:
            raise error
        self._ran([float(row[0]) for row in array])
        RUNNING.get().sleep(PROFILE.seconds_at(len(array)) * self._slowness())
        if isinstance(stop, Switch) and stop.is_used:
            raise RunFailed("the run was stopped")
        return [Tensor.from_numpy("y", array * np.float32(2) + np.float32(1))]

    @override
    def give_back(self) -> None:
        """Do nothing: nothing is kept."""

    @override
    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def source(name: str = NAME) -> ModelSource:
    """Return a model's source, a file that is not there."""
    return ModelSource(
        ModelName(name),
        ModelVersion("1"),
        VerifiedContent(
            Path(f"{name}/1/model.onnx"),
            f"{ALGORITHM}:{'1'.rjust(64, '0')}",
            0,
            ChunkList(()),
            (),
            0,
        ),
        Manifest(rules=RULES),
    )


RULES = Rules(
    batching=BatchingRules(max_rows=BATCH_ROWS), is_idempotent=True, is_deterministic=True
)
