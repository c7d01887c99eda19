"""ONNX's own node cases, asked over the wire: what ONNX Runtime gets right must arrive right.

Cases that it cannot load or gets wrong are counted, each one after it has failed without the wire as well.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import onnxruntime
import pytest
from fleet_fakes import NullLog
from link_wire import greeted
from onnx.backend.test.case.node import collect_testcases

from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.models.preparation import LoadResult, Preparation
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.profiling.profile_cache import ProfileCache
from capamesh.node.repository import ModelSource, scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.scheduling import DynamicBatcher
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.errors import CapameshError, ModelInvalid
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferCall, decode_answer, encode_call
from capamesh.protocol.links.events import ErrorReceived, RequestReceived, ResponseReceived
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Tensor, fp32_from_bf16

IR_VERSIONS = range(10, 14)
MAX_OPSET = 26
"""Both as far as ONNX Runtime 1.31 reads them; onnx 1.23 writes newer ones."""

P = onnx.TensorProto
CARRIED = {
    P.BOOL: ("bool", Datatype.BOOL),
    P.UINT8: ("uint8", Datatype.UINT8),
    P.UINT16: ("uint16", Datatype.UINT16),
    P.UINT32: ("uint32", Datatype.UINT32),
    P.UINT64: ("uint64", Datatype.UINT64),
    P.INT8: ("int8", Datatype.INT8),
    P.INT16: ("int16", Datatype.INT16),
    P.INT32: ("int32", Datatype.INT32),
    P.INT64: ("int64", Datatype.INT64),
    P.FLOAT16: ("float16", Datatype.FP16),
    P.BFLOAT16: ("bfloat16", Datatype.BF16),
    P.FLOAT: ("float", Datatype.FP32),
    P.DOUBLE: ("double", Datatype.FP64),
    P.STRING: ("string", Datatype.BYTES),
}
"""ONNX's element types that the protocol carries: ONNX Runtime's name and ours."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the standard; its values are arrays, `TensorProto`s or lists."""

    name: str
    model: onnx.ModelProto
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    rtol: float
    atol: float

    @property
    def uncarried(self) -> str | None:
        """Return the first input or output that the protocol cannot carry, as a refusal names it."""
        graph = self.model.graph
        for side, values in (("input", graph.input), ("output", graph.output)):
            for value in values:
                if not _is_carried(value.type):
                    return f"{side} {value.name!r} is {type_name(value.type)},"
        return None

    def asked(self) -> list[Tensor]:
        """Return the inputs as tensors."""
        return [
            _tensor(value.name, value.type, given)
            for value, given in zip(self.model.graph.input, self.inputs, strict=True)
        ]

    def datatypes(self) -> set[tuple[str, Datatype]]:
        """Return every ("input" or "output", datatype) that the case carries."""
        graph = self.model.graph
        return {
            (side, CARRIED[value.type.tensor_type.elem_type][1])
            for side, values in (("input", graph.input), ("output", graph.output))
            for value in values
        }

    def check(self, answered: Sequence[Tensor]) -> None:
        """Compare as ONNX's own runner does: names, datatypes, shapes, then values. Raises AssertionError."""
        declared = self.model.graph.output
        assert [tensor.name for tensor in answered] == [value.name for value in declared]
        for tensor, value, expected in zip(answered, declared, self.outputs, strict=True):
            wanted = _tensor(value.name, value.type, expected)
            assert tensor.datatype is wanted.datatype
            assert tensor.shape == wanted.shape
            if tensor.datatype is Datatype.BYTES:
                assert tensor.to_numpy().tolist() == wanted.to_numpy().tolist()
            else:
                np.testing.assert_allclose(
                    _numbers(tensor), _numbers(wanted), rtol=self.rtol, atol=self.atol
                )


def onnx_cases() -> Iterator[Case]:
    """Yield every node case, its model rewritten to what ONNX Runtime reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference values of 1 / 0 and the like
        cases = collect_testcases(None)
    for case in cases:
        model = case.model
        model.ir_version = min(max(model.ir_version, IR_VERSIONS.start), IR_VERSIONS.stop - 1)
        for used in model.opset_import:
            if used.domain == "":
                used.version = min(used.version, MAX_OPSET)
        ((inputs, outputs),) = case.data_sets
        yield Case(case.name, model, inputs, outputs, case.rtol, case.atol)


def save(case: Case, folder: Path) -> Path:
    """Write the model alone into a folder of its own; return its file."""
    file = folder / case.name / f"{case.name}.onnx"
    file.parent.mkdir()
    file.write_bytes(case.model.SerializeToString())
    return file


def type_name(proto: onnx.TypeProto) -> str:
    """Return a type as ONNX Runtime writes it: `tensor(float8e4m3fn)`, `seq(tensor(float))`."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            kind = proto.tensor_type.elem_type
            name = CARRIED[kind][0] if kind in CARRIED else P.DataType.Name(kind).lower()
            return f"tensor({name})"
        case "sequence_type":
            return f"seq({type_name(proto.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({type_name(proto.optional_type.elem_type)})"
        case other:
            raise AssertionError(f"a case with a value of {other}")


def _is_carried(proto: onnx.TypeProto) -> bool:
    return proto.WhichOneof("value") == "tensor_type" and proto.tensor_type.elem_type in CARRIED


def _tensor(name: str, proto: onnx.TypeProto, value: Any) -> Tensor:
    array = onnx.numpy_helper.to_array(value) if isinstance(value, P) else np.asarray(value)
    return Tensor.from_numpy(name, array, CARRIED[proto.tensor_type.elem_type][1])


def _numbers(tensor: Tensor) -> np.ndarray[Any, Any]:
    array = tensor.to_numpy()
    if tensor.datatype is Datatype.BF16:
        return fp32_from_bf16(array)
    return array


CUTS_SEED = 20260702
"""Where the bytes of a message are cut on their way."""
BUDGET_MS = 30_000
"""A deadline that travels with every call and that none comes near."""


def over_the_wire(file: Path, inputs: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
    """Prepare `file`, which is alone in its folder, as a node does, and run it at the far end of a wire; raise what that answers.

    ModelInvalid: the model cannot be hosted. Only where it can is it asked what the inputs are.
    """
    (source,) = scan(file.parent).models
    backend = OnnxBackend()
    # a second a look, so that a measurement is short
    clock = itertools.count().__next__
    preparation = Preparation(backend, ProfileCache(None), circumstances={}, clock=clock)
    prepared = preparation.prepare(source, partial(backend.load, source))
    try:
        return asyncio.run(_asked(source, prepared, backend, inputs()))
    finally:
        prepared.loaded.close()


async def _asked(
    source: ModelSource, prepared: LoadResult, backend: OnnxBackend, inputs: Sequence[Tensor]
) -> list[Tensor]:
    batcher = DynamicBatcher(
        prepared.plan,
        source.manifest.rules,
        prepared.measured.profile,
        max_in_flight=8,
        streams=prepared.streams,
    )
    runner = ModelRunner(
        prepared.loaded,
        batcher,
        stream=prepared.stream,
        may_run_here=prepared.is_predictable,
        clock=time.monotonic,
        switch=backend.stop_switch,
        marks=InFlightJournal(None),
        number=1,
        watchdog_s=60.0,
        on_stuck=_unexpected,
    )
    models = ModelRegistry()
    models.ready(HostedModel(source, prepared, runner))
    service = WorkerService(
        models,
        None,  # type: ignore[arg-type]  # nobody introduces themselves on this wire
        control=_unexpected,
        clock=time.monotonic,
        later=lambda *_: None,
        limits=DEFAULT_LIMITS,
        log=NullLog(),  # type: ignore[arg-type]
    )
    wire = greeted(seed=CUTS_SEED)
    call = InferCall(source.name, ModelVersion(""), tuple(inputs), ())
    stream = wire.dialer.ask(*encode_call(call, budget_ms=BUDGET_MS))
    _, (request,) = wire.settle()
    assert isinstance(request, RequestReceived)
    link: Any = wire.acceptor  # all of a link that a worker needs
    service.request_received(link, request.stream, request.meta, request.body)
    service.read_ended(link)
    await runner.wait_idle()
    runner.close()
    (answer,), _ = wire.settle()
    if isinstance(answer, ErrorReceived):
        raise answer.error
    assert isinstance(answer, ResponseReceived)
    assert (answer.stream, answer.is_final) == (stream, True)
    return list(decode_answer(answer.meta, answer.body, DEFAULT_LIMITS).outputs)


def _unexpected(*what: object) -> NoReturn:
    raise AssertionError(f"{what} on a wire that only carries inference")


pytestmark = pytest.mark.pure

CASES = 1800
"""1,884 in onnx 1.23.2. These three are a little below what that and ONNX Runtime 1.31.1 give."""
PASSED = 1480
"""1,519."""
REFUSED = 170
"""179; the other 14 that the protocol cannot carry are of float4e2m1, which this runtime has no kernels for."""

BF16 = next(kind for kind, (_, datatype) in CARRIED.items() if datatype is Datatype.BF16)
LOG_FATAL = 4


@dataclass
class Outcome:
    """What became of every case, by name."""

    passed: list[str] = field(default_factory=list)
    carried: set[tuple[str, Datatype]] = field(default_factory=set)
    """Which datatypes the passed ones had, as "input" and as "output"."""
    refused: list[str] = field(default_factory=list)
    """Those with a value that the protocol cannot carry, refused with its name and type."""
    beyond: list[str] = field(default_factory=list)
    """Those that ONNX Runtime cannot load, run or get right by itself either."""
    failed: list[str] = field(default_factory=list)
    """Those that it does get right, with the reason: ours to mend."""
    misjudged: list[str] = field(default_factory=list)
    """Those that should have been refused, or in other words; likewise."""

    def __str__(self) -> str:
        return (
            f"ONNX node cases: {len(self.passed)} passed through the wire, {len(self.refused)} refused by"
            f" name, {len(self.beyond)} beyond ONNX Runtime {onnxruntime.__version__},"
            f" {len(self.failed) + len(self.misjudged)} failed"
        )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, findings: list[str]) -> Outcome:
    folder = tmp_path_factory.mktemp("cases")
    outcome = Outcome()
    for case in onnx_cases():
        file = save(case, folder)
        if case.uncarried is None:
            ask(case, file, outcome)
        else:
            offer(case, case.uncarried, file, outcome)
    findings.append(str(outcome))
    return outcome


def ask(case: Case, file: Path, outcome: Outcome) -> None:
    """Run a case through the wire; where that fails, without it."""
    try:
        case.check(over_the_wire(file, case.asked))
    except (CapameshError, AssertionError) as error:
        if passes_directly(case, file):
            outcome.failed.append(f"{case.name}: {error!r}")
        else:
            outcome.beyond.append(case.name)
    else:
        outcome.passed.append(case.name)
        outcome.carried |= case.datatypes()


def offer(case: Case, refusal: str, file: Path, outcome: Outcome) -> None:
    """Load a case that must be refused with words that have `refusal` in them."""
    try:
        over_the_wire(file, list)
        outcome.misjudged.append(f"{case.name}: hosted, though {refusal} cannot be carried")
    except ModelInvalid as error:
        if refusal in error.message:
            outcome.refused.append(case.name)
        elif session(file) is None:
            outcome.beyond.append(case.name)
        else:
            outcome.misjudged.append(f"{case.name}: {error!r} does not say that {refusal}")


def passes_directly(case: Case, file: Path) -> bool:
    """Whether ONNX Runtime, called from here, gives what the case expects."""
    loaded = session(file)
    if loaded is None:
        return False
    asked = case.asked()
    names = [value.name for value in case.model.graph.output]
    try:
        if Datatype.BYTES in {tensor.datatype for tensor in asked}:
            arrays = loaded.run(names, {tensor.name: texts(tensor) for tensor in asked})
            case.check(
                [
                    Tensor.from_numpy(*pair)
                    for pair in zip(names, map(np.asarray, arrays), strict=True)
                ]
            )
        else:
            values = loaded.run_with_ort_values(
                names, {tensor.name: fed(tensor) for tensor in asked}
            )
            case.check([given(*pair) for pair in zip(names, values, strict=True)])
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no other base
        return False
    return True


def session(file: Path) -> Any | None:
    """Return a session of ONNX Runtime, or None where it cannot load the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no other base
        return None


def texts(tensor: Tensor) -> np.ndarray[Any, Any]:
    array = tensor.to_numpy()
    if tensor.datatype is not Datatype.BYTES:
        return array
    flat: Sequence[str] = [element.decode() for element in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)


def fed(tensor: Tensor) -> Any:
    array = np.array(tensor.to_numpy())
    if tensor.datatype is Datatype.BF16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BF16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def given(name: str, value: Any) -> Tensor:
    if value.element_type() != BF16:
        return Tensor.from_numpy(name, value.numpy())
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return Tensor(name, Datatype.BF16, tuple(value.shape()), raw)


def test_answers_over_the_wire_are_right_where_onnx_runtime_alone_is_right(
    outcome: Outcome,
) -> None:
    assert outcome.failed == []
    assert len(outcome.passed) >= PASSED
    both_ways = {(side, datatype) for side in ("input", "output") for datatype in Datatype}
    assert outcome.carried == both_ways
    seen = [*outcome.passed, *outcome.refused, *outcome.beyond]
    assert len(seen) == len(set(seen)) >= CASES


def test_model_with_a_value_that_the_protocol_cannot_carry_is_refused_by_name_and_type(
    outcome: Outcome,
) -> None:
    assert outcome.misjudged == []
    assert len(outcome.refused) >= REFUSED
