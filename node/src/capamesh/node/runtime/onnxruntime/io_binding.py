"""Runs a session with its outputs in device memory that is kept from run to run. Uses a device.

The session is handed in, so that this module imports no runtime and works with the CPU as a device too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

_Untyped = Any
"""An object of ONNX Runtime, which has no types."""


class BoundRuns:
    """IO bindings of one session, one for each run at a time; threads may share it.

    Inputs, which are OrtValues, go to the device once, when they are bound, into the session's own arena
    (docs/decisions/0018). Outputs stay in buffers that the next run of equal input shapes writes again, and are
    copied to the host once. No binding can give text, nor bfloat16.
    """

    def __init__(self, session: _Untyped, device_type: str, device_index: int) -> None:
        self._session = session
        self._device = (device_type, device_index)
        self._idle: list[_Binding] = []
        self._is_reusing = True

    def run(
        self,
        feed: Mapping[str, _Untyped],
        names: Sequence[str],
        options: _Untyped = None,
        *,
        keep_buffers: bool = True,
    ) -> list[npt.NDArray[Any]]:
        """Return the named outputs as arrays of their own, on the host, in the shapes that the run gave them.

        Raises what the runtime raises. `keep_buffers` false gives the output buffers back after it.
        """
        try:
            binding = self._idle.pop()
        except IndexError:
            binding = _Binding(self._session.io_binding())
        key = (tuple(names), *((name, tuple(value.shape())) for name, value in feed.items()))
        try:
            return self._run(binding, key, feed, names, options)
        finally:
            binding.io.clear_binding_inputs()
            if not keep_buffers:
                binding.forget()
            self._idle.append(binding)

    def _run(
        self,
        binding: _Binding,
        key: object,
        feed: Mapping[str, _Untyped],
        names: Sequence[str],
        options: _Untyped,
    ) -> list[npt.NDArray[Any]]:
        for name, value in feed.items():
            binding.io.bind_ortvalue_input(name, value)
        is_reused = self._is_reusing and binding.key == key
        if not is_reused:
            binding.bind_outputs(names, self._device)
        try:
            self._session.run_with_iobinding(binding.io, options)
        except Exception:
            binding.forget()
            if options is not None and options.terminate:
                raise
            # A binding's errors do not tell whose fault they are, so that a plain run has to say it.
            # It succeeds where the outputs' shapes depend on values, so that the buffers did not fit.
            values = self._session.run(names, feed, options)
            self._is_reusing = self._is_reusing and not is_reused
            return list(values)
        binding.key = key
        return list(binding.io.copy_outputs_to_cpu())


class _Binding:
    """One IO binding and what its output buffers were made for."""

    __slots__ = ("io", "key")

    def __init__(self, io: _Untyped) -> None:
        self.io = io
        self.key: object = None

    def bind_outputs(self, names: Sequence[str], device: tuple[str, int]) -> None:
        """Let the next run make new buffers for the outputs; the runs after it write to them."""
        self.forget()
        for name in names:
            self.io.bind_output(name, *device)

    def forget(self) -> None:
        """Give the output buffers back."""
        self.key = None
        self.io.clear_binding_outputs()
