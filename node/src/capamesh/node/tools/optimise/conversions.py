"""Makes an ONNX model smaller or faster with ONNX Runtime's own tools. Reads and writes files, runs the model."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Generator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from capamesh.node.tools.optimise.onnx_files import (
    DATA_SUFFIX,
    read_onnx,
    require_onnx,
    write_onnx,
)
from capamesh.node.tools.optimise.structure import read_structure, structure_of
from capamesh.protocol.errors import CapameshError, ModelInvalid

if TYPE_CHECKING:
    import onnx

_Untyped = Any
"""A module or object of ONNX Runtime, which has no types."""
Feed = Mapping[str, npt.NDArray[Any]]
"""The inputs of a run: an array by the name of each input, of the shape and dtype that the model declares."""

_WEIGHTED: Final = ("MatMul", "Gemm")
_CONVOLUTIONS: Final = ("Conv", "ConvTranspose")
_BETWEEN: Final = ("MaxPool", "Relu", "Clip")
"""The operators that stay in 8 bits between convolutions at no loss. Arithmetic does not: with it a normalisation
that is written as single operators gives noise (Magika kept 18 % of its decisions, without it all; measured)."""
_QUANTISED: Final = frozenset({"DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear"})
_FP16_MAX: Final = 65504.0  # IEEE 754 binary16
_LOG_FATAL: Final = 4  # errors reach us as exceptions
_MIN_EXTERNAL_BYTES: Final = "1024"
"""Smaller weights stay in the ONNX file, as in `write_onnx`."""
_SHOWN_CHARS: Final = 500  # guess: how much of a tool's message helps


class Conversion(StrEnum):
    """A conversion that can be applied to a model."""

    INT8 = "int8"
    FP16 = "fp16"
    GRAPH = "graph"


def convert(
    source: Path,
    target: Path,
    conversion: Conversion,
    *,
    calibration: Sequence[Feed] | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    is_external: bool = False,
) -> tuple[str, ...]:
    """Write the converted model at `source` to `target`; return what a person should know of it.

    INT8 with `calibration` and convolutions: weights and activations have 8 bits, by the ranges that the
    runs of `calibration` show. INT8 else: weights of MatMul and Gemm; activations at run time. FP16: all
    floats but inputs and outputs. GRAPH: fused operators, as for `providers`. `is_external` keeps weights in
    a file beside `target`. ConfigError: no `onnx` package. ModelInvalid: the tools cannot do it, or there is
    nothing for them to do.
    """
    require_onnx()
    with _quiet():
        try:
            match conversion:
                case Conversion.INT8:
                    return _to_int8(source, target, calibration, is_external=is_external)
                case Conversion.FP16:
                    return _to_fp16(source, target, is_external=is_external)
                case Conversion.GRAPH:
                    return _optimise_graph(source, target, providers, is_external=is_external)
        except CapameshError:
            raise
        except Exception as exc:  # the tools raise whatever a graph they do not know leads to
            reason = " ".join(str(exc).split()) or type(exc).__name__
            raise ModelInvalid(
                f"ONNX Runtime's {conversion} tool fails on it: {reason[:_SHOWN_CHARS]}"
            ) from exc


def _to_int8(
    source: Path, target: Path, calibration: Sequence[Feed] | None, *, is_external: bool
) -> tuple[str, ...]:
    import onnxruntime.quantization as untyped  # type: ignore[import-untyped]  # noqa: PLC0415 - needs onnx

    quantization = cast("_Untyped", untyped)
    model = _with_single_opsets(read_onnx(source, with_weights=True))
    operators = structure_of(model).operators
    has_convolutions = not operators.keys().isdisjoint(_CONVOLUTIONS)
    notes: tuple[str, ...] = ()
    # Weights of 7 bits: where a CPU has no VNNI, sums of products of 8 bits saturate, and a model that is right
    # here would be wrong on another node (ONNX Runtime's guide to quantization, "reduce_range").
    options = {"per_channel": True, "reduce_range": True, "use_external_data_format": is_external}
    if has_convolutions and calibration:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            # From a file: given a model in memory, it moves the weights out of it and does not find them again.
            original, prepared = Path(folder, "original.onnx"), Path(folder, "prepared.onnx")
            write_onnx(model, original, is_external=is_external)
            quantization.quant_pre_process(
                original,
                prepared,
                skip_symbolic_shape=True,  # it would need another package
                save_as_external_data=is_external,
            )
            model = _with_flat_biases(read_onnx(prepared, with_weights=True))
        quantization.quantize_static(
            model,
            target,
            calibration_data_reader=_Reader(calibration),
            op_types_to_quantize=[*_WEIGHTED, *_CONVOLUTIONS, *_BETWEEN],
            **options,
        )
        notes = ("the ranges of activations come from the given inputs",)
    else:
        quantization.quantize_dynamic(model, target, op_types_to_quantize=[*_WEIGHTED], **options)
        if has_convolutions:
            notes = ("its convolutions stay float: give real inputs with --inputs to convert them",)
    written = structure_of(read_onnx(target, with_weights=False)).operators
    if _QUANTISED.isdisjoint(written):
        raise ModelInvalid(
            "int8 changes nothing: it has no MatMul or Gemm with constant float weights"
            + (", and convolutions need real inputs: --inputs FILE.npz" if has_convolutions else "")
            + f"; its operators: {', '.join(operators)}"[:_SHOWN_CHARS]
        )
    return notes


class _Reader:
    """Hands runs to the quantizer, which asks until there is none."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


def _to_fp16(source: Path, target: Path, *, is_external: bool) -> tuple[str, ...]:
    import onnxruntime.transformers.float16 as untyped  # type: ignore[import-untyped]  # noqa: PLC0415 - needs onnx

    float16 = cast("_Untyped", untyped)
    model = _with_single_opsets(read_onnx(source, with_weights=True))
    halves = structure_of(model).weight_bytes.get("fp16", 0)
    clipped = sum(map(_beyond_fp16, model.graph.initializer))
    converted = cast(
        "onnx.ModelProto",
        float16.convert_float_to_float16(
            model,
            keep_io_types=True,
            # Shapes are inferred in one message, which cannot be so large.
            disable_shape_infer=is_external,
        ),
    )
    if structure_of(converted).weight_bytes.get("fp16", 0) == halves:
        raise ModelInvalid(
            "fp16 changes nothing: it has no fp32 weights, or only in operators that need them"
        )
    write_onnx(converted, target, is_external=is_external)
    return (f"{clipped} weights are beyond what fp16 holds and were clipped",) if clipped else ()


def _beyond_fp16(tensor: onnx.TensorProto) -> int:
    """Return how many elements of an fp32 tensor fp16 cannot hold."""
    from onnx import TensorProto, numpy_helper  # noqa: PLC0415 - an extra

    if tensor.data_type != TensorProto.FLOAT:
        return 0
    values = cast("npt.NDArray[Any]", cast("_Untyped", numpy_helper).to_array(tensor))
    return int((np.abs(values) > _FP16_MAX).sum())


def _optimise_graph(
    source: Path, target: Path, providers: Sequence[str], *, is_external: bool
) -> tuple[str, ...]:
    import onnxruntime as untyped  # pyright: ignore[reportMissingTypeStubs] # noqa: PLC0415 - has no types; commands that do not convert start faster

    runtime = cast("_Untyped", untyped)
    options = runtime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    # ORT_ENABLE_ALL would write layouts that only this very processor runs.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    # Weights that lie in a file would be named as that file, which is not beside the new model.
    if is_external or read_structure(source).external_files:
        add = options.add_session_config_entry
        add(
            "session.optimized_model_external_initializers_file_name",
            target.name + DATA_SUFFIX,
        )
        add(
            "session.optimized_model_external_initializers_min_size_in_bytes",
            _MIN_EXTERNAL_BYTES,
        )
    runtime.InferenceSession(str(source), options, providers=list(providers))
    return (f"operators are fused as {' and '.join(providers)} runs them best",)


def _with_single_opsets(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with each opset once: exporters name some twice, at which the tools stumble."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if len(versions) < len(model.opset_import):
        del model.opset_import[:]
        for domain, version in versions.items():
            model.opset_import.add(domain=domain, version=version)
    return model


def _with_flat_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with Gemm biases [1, N] as [N], which broadcast alike: the tool takes only those."""
    uses: dict[str, set[tuple[str, int]]] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            uses.setdefault(name, set()).add((node.op_type, index))
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and tensor.dims[0] == 1 and uses.get(tensor.name) == {("Gemm", 2)}:
            del tensor.dims[0]
    return model


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep the tools' logs and warnings from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
