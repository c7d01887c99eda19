"""Runs a loaded ONNX model: a session of ONNX Runtime behind the `LoadedModel` protocol. Uses devices."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy.typing as npt
from typing_extensions import override

from capamesh.node.repository.onnx_scan import OnnxContents, precision
from capamesh.node.runtime.api import LoadedModel, OutOfMemory, StopSwitch
from capamesh.node.runtime.onnxruntime.arena import ArenaWatch
from capamesh.node.runtime.onnxruntime.binding import (
    INVALID_ARGUMENT,
    Untyped,
    innermost,
    one_line,
    ort,
)
from capamesh.node.runtime.onnxruntime.faults import is_out_of_memory
from capamesh.node.runtime.onnxruntime.freed_memory import trim
from capamesh.node.runtime.onnxruntime.io_binding import BoundRuns
from capamesh.node.runtime.onnxruntime.providers import CUDA_PROVIDERS, shrinking
from capamesh.node.runtime.onnxruntime.raw_texts import RawTextSession
from capamesh.node.runtime.onnxruntime.values import fed, smallest, wrapped
from capamesh.node.runtime.signature import (
    NotUtf8,
    Signature,
    cut,
    declared,
    declared_outputs,
    described,
)
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    ModelInvalid,
    ModelUnavailable,
    RunFailed,
)
from capamesh.protocol.tensors import BYTES, Datatype, Tensor, TensorSpec

_SHRINK_KEY: Final = "memory.enable_memory_arena_shrinkage"
_HELD_BYTES: Final = 256 * 1024 * 1024
"""The bytes above which the pool gives back what it holds after a run: no message carries more, and others need it more."""
_COPIED_BYTES: Final = 4096  # measured: up to here a copy (0.1 µs) is cheaper than a view (0.16 µs)


class OnnxStopSwitch(StopSwitch):
    """Ends one run of ONNX Runtime early; see `StopSwitch`."""

    __slots__ = ("_more", "is_used", "options")

    def __init__(self) -> None:
        self.options: Untyped = ort.RunOptions()
        self.is_used = False
        self._more: Callable[[], None] | None = None

    @override
    def stop(self) -> None:
        self.is_used = True
        self.options.terminate = True
        if self._more is not None:
            self._more()

    def also(self, stop: Callable[[], None]) -> None:
        """Have `stop` end the run, too; at once where the switch was used already."""
        self._more = stop
        if self.is_used:
            stop()


class OnnxModel(LoadedModel):
    """One loaded model: a session of ONNX Runtime behind the `LoadedModel` protocol."""

    def __init__(
        self,
        session: Untyped,
        provider: str,
        contents: OnnxContents,
        device_index: int,
        on_error: Callable[[Exception], None],
        raw: RawTextSession | None = None,
    ) -> None:
        """`on_error` is told what ONNX Runtime raises in a run, in the thread of the run; `raw` runs other texts."""
        self.provider = provider
        self._on_error = on_error
        self.is_data_dependent = contents.is_data_dependent
        self.is_random = contents.is_random
        self.inputs = tuple(
            declared("input", arg.name, arg.type, arg.shape) for arg in session.get_inputs()
        )
        self.outputs, self.notes = declared_outputs(
            (arg.name, arg.type, arg.shape) for arg in session.get_outputs()
        )
        self.precision = precision(contents.weights, (*self.inputs, *self.outputs))
        self._signature = Signature(self.inputs, self.outputs, reads_texts=raw is None)
        self._raw = raw
        self._output_names = [spec.name for spec in self.outputs]
        self._output_datatypes = {spec.name: spec.datatype for spec in self.outputs}
        # Made once: options made for each run are 0.6 µs of a run of 6.4 (measured).
        self._options: Untyped = ort.RunOptions()
        self._shrinking: Untyped = ort.RunOptions()
        self._shrinking_value = shrinking(provider, device_index)
        self._shrinking.add_run_config_entry(_SHRINK_KEY, self._shrinking_value)
        self._has_bf16_output = Datatype.BF16 in self._output_datatypes.values()
        self._refuse_text_beside_bf16()
        self._arena = ArenaWatch()
        bound = None
        has_text = any(spec.datatype is Datatype.BYTES for spec in (*self.inputs, *self.outputs))
        if provider in CUDA_PROVIDERS and not has_text and not self._has_bf16_output:
            bound = BoundRuns(session, "cuda", device_index)
        # In one attribute, so that a thread that runs sees all or none while another closes.
        self._live: tuple[Untyped, BoundRuns | None] | None = session, bound

    def _refuse_text_beside_bf16(self) -> None:
        # A BF16 output needs every input as an OrtValue (run), and there is none of text.
        named = [spec.name for spec in self.inputs if spec.datatype is Datatype.BYTES]
        if self._has_bf16_output and named:
            name = next(spec.name for spec in self.outputs if spec.datatype is Datatype.BF16)
            raise ModelInvalid(
                f"output {name!r} is bfloat16 beside the string input {named[0]!r}, which ONNX Runtime "
                "cannot return to Python: add a Cast to float after it"
            )

    @override
    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Check a request; see `LoadedModel.validate`."""
        self._signature.validate(inputs, outputs)

    @override
    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        """Run the model; see `LoadedModel.run`. A switch of another backend stops nothing."""
        live = self._live
        if live is None:
            raise ModelUnavailable("the model has been unloaded")
        session, bound = live
        names = list(outputs) if outputs else self._output_names
        try:
            feed: dict[str, object] = {}
            size_bytes = 0
            for tensor in inputs:
                size_bytes += len(tensor.data)
                feed[tensor.name] = fed(tensor)
            is_shrinking = self._arena.is_due(size_bytes)
            # None first: to ask for the class of a protocol takes 1 µs
            if stop is None or not isinstance(stop, OnnxStopSwitch):
                options = self._shrinking if is_shrinking else self._options
            else:
                options = stop.options
                if is_shrinking:
                    options.add_run_config_entry(_SHRINK_KEY, self._shrinking_value)
            if self._has_bf16_output:
                return self._run_ort_values(session, feed, names, options)
            if bound is not None:
                values = bound.run(wrapped(feed), names, options, keep_buffers=not is_shrinking)
            else:
                # The wrapper's own checks are a tenth of a small model's run (measured), and made above.
                values = session._sess.run(names, feed, options)  # noqa: SLF001  # no other way around them
        except (NotUtf8, UnicodeDecodeError) as exc:
            return self._run_raw(inputs, names, stop, exc)
        except CapameshError:
            raise
        except Exception as exc:  # ONNX Runtime's errors share no other base
            self._on_error(exc)
            if is_out_of_memory(exc):
                self._shrink(session)
                raise OutOfMemory(
                    f"the model's run needed more memory than this node has: {one_line(exc)}"
                ) from exc
            if isinstance(stop, OnnxStopSwitch) and stop.is_used:
                raise RunFailed("the run was stopped before its end") from exc
            raise _run_error(exc, inputs, self.inputs) from exc
        results = self._tensors(names, values)
        size_bytes = 0
        for tensor in results:
            size_bytes += len(tensor.data)
        if size_bytes > _HELD_BYTES:
            self._shrink(session)
        return results

    @override
    def give_back(self) -> None:
        """Give pooled memory back; see `LoadedModel.give_back`."""
        live = self._live
        if live is not None:
            self._shrink(live[0])

    def _shrink(self, session: Untyped) -> None:
        """Let the session's pools shrink, which it does after a run: after one that ends before its first operator."""
        options: Untyped = ort.RunOptions()
        options.add_run_config_entry(_SHRINK_KEY, self._shrinking_value)
        options.terminate = True
        names = self._output_names
        feed = {spec.name: fed(smallest(spec)) for spec in self.inputs}
        with contextlib.suppress(Exception):  # that it was ended is an error of the runtime's
            if self._has_bf16_output:
                session.run_with_ort_values(names, wrapped(feed), options)
            else:
                session._sess.run(names, feed, options)  # noqa: SLF001  # as in `run`

    def _run_raw(
        self,
        inputs: Sequence[Tensor],
        names: Sequence[str],
        stop: StopSwitch | None,
        error: NotUtf8 | UnicodeDecodeError,
    ) -> list[Tensor]:
        """Run with texts that the Python binding can neither take nor give, which `error` has told."""
        raw = self._raw
        if raw is None:
            if isinstance(error, NotUtf8):
                raise error
            raise RunFailed(
                "an output has text that is not UTF-8, which ONNX Runtime's Python binding cannot return"
            ) from error
        switch = stop if isinstance(stop, OnnxStopSwitch) else OnnxStopSwitch()
        try:
            return raw.run(inputs, names, switch.also)
        except RunFailed as exc:
            if switch.is_used:
                raise RunFailed("the run was stopped before its end") from exc
            if is_out_of_memory(exc):
                raise OutOfMemory(exc.message) from exc
            raise

    def _run_ort_values(
        self, session: Untyped, feed: dict[str, Any], names: list[str], options: Untyped
    ) -> list[Tensor]:
        """Run with OrtValues on both sides: `session.run` cannot return bfloat16."""
        results: list[Tensor] = []
        values = session.run_with_ort_values(names, wrapped(feed), options)
        for name, value in zip(names, values, strict=True):
            if self._output_datatypes[name] is not Datatype.BF16:
                results += self._tensors([name], [value.numpy()])
                continue
            if value.device_name().lower() != "cpu":
                raise RunFailed(
                    f"output {name!r} stayed on {value.device_name()}, expected the CPU"
                )
            size_bytes = value.tensor_size_in_bytes()
            raw = ctypes.string_at(value.data_ptr(), size_bytes) if size_bytes else b""
            results.append(Tensor(name, Datatype.BF16, tuple(value.shape()), raw))
        return results

    def _tensors(self, names: list[str], arrays: Sequence[npt.NDArray[Any]]) -> list[Tensor]:
        datatypes = self._output_datatypes
        results: list[Tensor] = []
        for name, array in zip(names, arrays, strict=True):
            datatype = datatypes[name]
            if datatype is BYTES:
                results.append(Tensor.from_numpy(name, array))
            elif array.nbytes <= _COPIED_BYTES:
                results.append(Tensor(name, datatype, array.shape, array.tobytes()))
            else:  # a view that keeps the array alive
                results.append(Tensor(name, datatype, array.shape, array.data.cast("B")))
        return results

    @override
    def close(self) -> None:
        """Let go of the session; runs in progress hold it until they end."""
        if self._live is not None:
            self._live = None
            self._raw = None
            trim()


def _run_error(
    error: Exception, inputs: Sequence[Tensor], takes: Sequence[TensorSpec]
) -> CapameshError:
    if isinstance(error, INVALID_ARGUMENT):
        given = ", ".join(f"{each.name} {each.datatype}{list(each.shape)}" for each in inputs)
        return InvalidRequest(
            f"the model cannot run these inputs, which are {cut(given)}; the model's inputs are {described(takes)}. "
            f"ONNX Runtime says: {innermost(error)}"
        )
    return RunFailed(f"the model's run failed: {one_line(error)}")
