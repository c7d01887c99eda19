"""Runs a decoder on ONNX Runtime over a pool of slots. Reads a model file, uses the device.

A run reads and writes keys and values where they lie: past and present of a layer are bound to the same memory, so that nothing is copied,
and sequences of any lengths run side by side (docs/decisions/0075). On a GPU they stay there, and the scores alone come to the host
(docs/decisions/0089).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from capamesh.node.generation import Slots
from capamesh.node.generation.slots import CacheBlock, Logits
from capamesh.node.runtime.api import OutOfMemory
from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder
from capamesh.node.runtime.decoders.genai_config import GenaiConfig
from capamesh.node.runtime.onnxruntime.binding import Untyped, one_line, ort
from capamesh.node.runtime.onnxruntime.faults import is_out_of_memory
from capamesh.node.runtime.onnxruntime.freed_memory import trim
from capamesh.node.runtime.onnxruntime.providers import CPU
from capamesh.node.runtime.onnxruntime.sessions import session_options
from capamesh.node.runtime.onnxruntime.slot_memory import (
    HOST,
    DeviceMemory,
    HostMemory,
    Place,
    RepeatedSlots,
    SlotMemory,
)
from capamesh.protocol.errors import ModelInvalid, RunFailed

_DYNAMIC_BLOCK_BASE: Final = "4"
"""The shares in which threads take work are the smaller the less of it is left. A step is hundreds of operators, each as long as its last thread: where the
router or a client takes a core for a moment, the others go on with what is left (measured: a step takes 0.9 times as long alone, and half
as long where much else runs; the bits are the same)."""
MOST_REPLAYED: Final = 64
"""The most rows of a run that replays (measured: 32 take a tenth longer; each is a mapping of memory for each layer)."""
_PROBED: Final = 8
"""The rows by which it is found out whether rows of one slot see each other (guess: all of more heads and layers than threads must be lucky to hide it)."""
ATTENTION: Final = "GroupQueryAttention"
"""The operator by which decoders keep the sequences of a batch apart."""
_TYPES: Final[dict[str, type[np.floating[Any]]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class NotOnDevice(ModelInvalid):
    """The device that should run a decoder does not take its attention."""


def _unheard(error: Exception) -> None:
    """Stand for an owner that need not know."""


@dataclass(frozen=True, slots=True)
class DecoderDevice:
    """The provider and the device that run a decoder."""

    provider: str = CPU
    options: tuple[tuple[str, str], ...] = ()
    """The provider's options."""
    place: Place = HOST
    """The device that has keys and values."""
    is_apart: bool = False
    """True if numpy does not reach what is there."""
    on_error: Callable[[Exception], None] = _unheard
    """Is told of what ONNX Runtime raises, in the thread that runs or loads."""


THE_CPU: Final = DecoderDevice()


class DecoderSlots(Slots):
    """The slots of one decoder. One thread uses it; its content is a model's answer as long as no run has failed."""

    def __init__(
        self,
        folder: DecoderFolder,
        *,
        count: int,
        length: int,
        threads: int,
        onnx_file: Path | None = None,
        device: DecoderDevice = THE_CPU,
    ) -> None:
        """Load the decoder of `folder`, from `onnx_file` where its content was verified elsewhere.

        Raises:
            ModelInvalid: the file is no decoder that the folder describes, or `length` is over its context.
            NotOnDevice: `device` does not run it.
            OutOfMemory: there is no room for the model or the slots.
        """
        config = folder.config
        if not 2 <= length <= config.context:
            raise ModelInvalid(
                f"slots should have {length} tokens; with this model it may be 2 to {config.context}"
            )
        self.count, self.length, self.vocabulary = count, length, config.vocabulary
        self._device = device
        self._session = _session(onnx_file or folder.onnx_file, threads, device)
        config = config.run_with([each.name for each in self._session.get_inputs()])
        self._config = config
        self.scores_each = bool(config.inputs.rows) or not _logits_places(self._session, config)[1]
        kind = _cache_type(self._session, config)
        shape = (2 * config.layers, count, config.kv_heads, length, config.head_size)
        try:
            self._memory: SlotMemory = (
                DeviceMemory(shape, kind, device.place, [(device.provider, dict(device.options))])
                if device.is_apart
                else HostMemory(shape, kind)
            )
        except Exception as exc:  # ONNX Runtime's errors share no other base
            device.on_error(exc)
            raise OutOfMemory(
                f"there is no room for {count} slots of {length} tokens; allow fewer or shorter ones"
            ) from exc
        self.token_bytes = self._memory.size_bytes // (count * length)
        self._used = np.zeros(count, np.int64)
        self._decodes: dict[int, _Run] = {}
        """The bindings of decoding steps, by how many slots they run."""
        self._extends: dict[int, _Run] = {}
        """The bindings that fill a slot, by its number."""
        self._replays: dict[int, _Run] = {}
        """The bindings of replays, by how many tokens they run."""
        self._repeated: RepeatedSlots | None = None
        if isinstance(self._memory, HostMemory):
            self._repeated = self._memory.repeated(MOST_REPLAYED)
        self.most_replayed = MOST_REPLAYED if self._rows_see_each_other() else 0

    @override
    def decode(self, tokens: Sequence[int]) -> Logits:
        rows = len(tokens)
        run = self._decodes.get(rows)
        if run is None:
            run = self._decodes[rows] = _Run(
                self._session, self._config, self._memory, self._device, 0, rows
            )
            run.resize(1, scored=1)
        return self._run(run, 0, np.array(tokens, np.int64).reshape(rows, 1))

    @override
    def extend(self, slot: int, tokens: Sequence[int], *, wants_logits: bool) -> Logits | None:
        logits = self._extend(slot, tokens, 1 if wants_logits else 0)
        return logits[0] if wants_logits else None

    @override
    def replay(
        self, pieces: Sequence[tuple[int, Sequence[int]]], *, wants_logits: bool
    ) -> Logits | None:
        rows: list[int] = []
        ids: list[int] = []
        places: list[int] = []
        ends: list[int] = []
        for slot, tokens in pieces:
            used = int(self._used[slot])
            self._check_room(used, len(tokens))
            rows += [slot] * len(tokens)
            ids += tokens
            places += range(used, used + len(tokens))
            ends.append(len(ids) - 1)
        repeated = self._repeated
        if repeated is not None and repeated.point(rows):
            logits = self._replay(repeated, ids, places, tuple(ends) if wants_logits else ())
            for slot, tokens in pieces:
                self._used[slot] += len(tokens)
            if wants_logits:
                repeated.clear()
        else:  # a run of one token has the bits of a step, too
            logits = np.concatenate(
                [
                    [self._extend(slot, [token], 1) for token in tokens][-1]
                    for slot, tokens in pieces
                ]
            )
        return logits if wants_logits else None

    @override
    def score(self, slot: int, tokens: Sequence[int]) -> Logits:
        return self._extend(slot, tokens, len(tokens))

    @override
    def copy(self, source: int, target: int, count: int) -> None:
        self._memory.copy(source, target, count)
        self._used[target] = count

    @override
    def truncate(self, slot: int, count: int) -> None:
        self._used[slot] = min(count, int(self._used[slot]))
        if not count and self._repeated is not None and slot in self._repeated.slots:
            self._repeated.clear()

    @override
    def used(self, slot: int) -> int:
        return int(self._used[slot])

    @override
    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        return self._memory.save(slot, start, stop)

    @override
    def load(self, slot: int, block: CacheBlock, count: int) -> None:
        at = int(self._used[slot])
        self._memory.load(slot, at, block, count)
        self._used[slot] = at + count

    @override
    def close(self) -> None:
        self._decodes.clear()
        self._extends.clear()
        self._replays.clear()
        self._repeated = None
        self._memory.free()
        self._session = None
        trim()

    def _extend(self, slot: int, tokens: Sequence[int], scored: int) -> Logits:
        """Run `tokens` behind those of `slot`; return logits of the last `scored`, in the shape [scored, vocabulary]."""
        run = self._extends.get(slot)
        if run is None:
            run = self._extends[slot] = _Run(
                self._session, self._config, self._memory, self._device, slot, 1
            )
        run.resize(len(tokens), scored=scored)
        return self._run(run, slot, np.array(tokens, np.int64).reshape(1, -1))

    def _run(self, run: _Run, first: int, ids: npt.NDArray[np.int64]) -> Logits:
        """Run `ids`, in the shape [slots, tokens], from the slot `first` on; return logits in the shape that `_Run.run` tells."""
        rows, tokens = ids.shape
        used = self._used[first : first + rows]
        self._check_room(int(used.max()), tokens)
        logits = run.run(ids, used)
        used += tokens
        return logits

    def _replay(
        self,
        repeated: RepeatedSlots,
        tokens: Sequence[int],
        places: Sequence[int],
        ends: tuple[int, ...],
    ) -> Logits:
        """Run `tokens` at `places` of the slots that lie in `repeated`, a row of a decode step for each; return the logits of the rows `ends`."""
        rows = len(tokens)
        run = self._replays.get(rows)
        if run is None:
            run = self._replays[rows] = _Run(
                self._session, self._config, repeated, self._device, 0, rows
            )
        run.resize(1, scored=int(bool(ends)), ends=ends)
        ids = np.array(tokens, np.int64).reshape(rows, 1)
        return run.run(ids, np.array(places, np.int64))

    def _rows_see_each_other(self) -> bool:
        """Return whether each row of a decode step reads what all rows of the step wrote, as attention that writes before it reads has it.

        If so, the rows' order does not matter. Attention that writes and reads row by row gives other bits if the first row is the last token.
        """
        repeated = self._repeated
        if repeated is None or self.length <= _PROBED or not repeated.point([0] * _PROBED):
            return False
        places = range(1, _PROBED + 1)
        tokens = [at % self.vocabulary for at in places]
        found: list[bytes] = []
        try:
            self.decode([0])
            for order in (1, -1):
                self._replay(repeated, tokens[::order], places[::order], ())
                block = self.save(0, 0, _PROBED + 1)
                found.append(block.tobytes())
                self.load(0, np.zeros_like(block[..., 1:, :]), _PROBED)
                self.truncate(0, 1)
        except RunFailed:  # who loads the decoder runs it, and says why it fails
            return False
        finally:
            self.truncate(0, 0)
        return found[0] == found[1]

    def _check_room(self, used: int, tokens: int) -> None:
        if used + tokens > self.length:  # it would be written into the next slot
            raise RunFailed(
                f"a slot has {used} tokens and should get {tokens} more; it has room for {self.length}"
            )


class _Run:
    """The IO binding of a run of some slots beside one another, with the arrays that it reads and writes.

    A binding holds addresses alone: the arrays stay here for as long as it does.
    """

    def __init__(
        self,
        session: Untyped,
        config: GenaiConfig,
        memory: SlotMemory | RepeatedSlots,
        device: DecoderDevice,
        first: int,
        rows: int,
    ) -> None:
        self._session = session
        self._config = config
        self._device = device
        self._rows = rows
        self._length = memory.shape[3]
        self._places = np.arange(self._length, dtype=np.int64)
        self._binding = session.io_binding()
        for layer, (past, present) in enumerate(
            zip(config.past_names(), config.present_names(), strict=True)
        ):
            part = (*memory.place, memory.kind, (rows, *memory.shape[2:]))
            address = memory.address(layer, first)
            self._binding.bind_input(past, *part, address)
            self._binding.bind_output(present, *part, address)
        self._tokens = self._scored = 0
        self._ends: tuple[int, ...] = ()
        self._inputs: dict[str, npt.NDArray[Any]] = {}
        self._logits: npt.NDArray[Any] = np.zeros((0, 0), np.float32)
        self._logits_of = _logits_places(session, config)

    def resize(self, tokens: int, *, scored: int, ends: tuple[int, ...] = ()) -> None:
        """Make the arrays anew for runs of `tokens` of each slot with logits behind the last `scored` of them, unless they are so already.

        With `ends` there are logits of these slots alone, in their order, as rows of the run.
        """
        if (tokens, scored, ends) == (self._tokens, self._scored, self._ends):
            return
        self._tokens, self._scored, self._ends = tokens, scored, ends
        names, rows = self._config.inputs, self._rows
        inputs: dict[str, npt.NDArray[Any]] = {names.input_ids: np.zeros((rows, tokens), np.int64)}
        if names.seqlens_k:
            inputs[names.seqlens_k] = np.zeros(rows, np.int32)
            inputs[names.total_sequence_length] = np.zeros(1, np.int32)
        else:
            inputs[names.attention_mask] = np.zeros((rows, self._length), np.int64)
        if names.position_ids:
            inputs[names.position_ids] = np.zeros((rows, tokens), np.int64)
        if names.rows:
            behind = (np.array(ends or range(rows), np.int64) + 1) * tokens
            inputs[names.rows] = (behind[:, None] - np.arange(scored, 0, -1)).reshape(-1)
        self._inputs = inputs
        self._bind_inputs()
        kind, places = self._logits_of
        vocabulary = self._config.vocabulary
        if names.rows:
            shape: tuple[int, ...] = (inputs[names.rows].shape[0], vocabulary)
        else:
            shape = (rows, places or tokens, vocabulary)
        self._logits = np.zeros(shape, kind)
        self._binding.bind_output(
            self._config.outputs.logits, *HOST, kind, shape, self._logits.ctypes.data
        )

    def run(self, ids: npt.NDArray[np.int64], used: npt.NDArray[np.int64]) -> Logits:
        """Run `ids`, in the shape [slots, tokens], behind the `used` tokens of each slot; return logits in the shape [slots * scored, vocabulary].

        They are valid until the next run of this binding. Raises `RunFailed`: ONNX Runtime does not run it.
        """
        names, inputs = self._config.inputs, self._inputs
        tokens = ids.shape[1]
        inputs[names.input_ids][:] = ids
        if names.seqlens_k:
            np.add(used, tokens - 1, out=inputs[names.seqlens_k], casting="unsafe")
            inputs[names.total_sequence_length][0] = int(used.max()) + tokens
        else:
            # the row sums of the mask are the lengths; its width may be any
            np.less(
                self._places,
                (used + tokens)[:, None],
                out=inputs[names.attention_mask],
                casting="unsafe",
            )
        if names.position_ids:
            np.add(used[:, None], self._places[:tokens], out=inputs[names.position_ids])
        try:
            if self._device.is_apart:  # what is bound goes there once, when it is bound
                self._bind_inputs()
                self._binding.synchronize_inputs()
            self._session.run_with_iobinding(self._binding)
        except Exception as exc:  # ONNX Runtime's errors share no other base
            self._device.on_error(exc)
            raise RunFailed(f"ONNX Runtime cannot run it: {one_line(exc)}") from exc
        logits = self._logits
        if not names.rows:
            logits = logits[:, -max(1, self._scored) :].reshape(-1, logits.shape[-1])
            if self._ends:
                logits = logits[list(self._ends)]
        return logits if logits.dtype == np.float32 else logits.astype(np.float32)

    def _bind_inputs(self) -> None:
        for name, array in self._inputs.items():
            self._binding.bind_input(name, *HOST, array.dtype, array.shape, array.ctypes.data)


def _session(path: Path, threads: int, device: DecoderDevice) -> Untyped:
    options: Untyped = session_options(threads)
    options.add_session_config_entry("session.dynamic_block_base", _DYNAMIC_BLOCK_BASE)
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=[(device.provider, dict(device.options))],
            enable_fallback=False,
        )
    except Exception as exc:  # ONNX Runtime's errors share no other base
        device.on_error(exc)
        refusal = OutOfMemory if is_out_of_memory(exc) else ModelInvalid
        raise refusal(f"ONNX Runtime cannot load it: {one_line(exc)}") from exc
    elsewhere = {
        part.ep_name
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != device.provider
        and any(node.op_type == ATTENTION for node in part.get_nodes())
    }
    if elsewhere:
        raise NotOnDevice(f"its attention is run by {elsewhere.pop()}")
    return session


def _cache_type(session: Untyped, config: GenaiConfig) -> type[np.floating[Any]]:
    """Return the type of keys and values. Raises `ModelInvalid`: inputs or outputs are not those that the folder tells."""
    found = {each.name: each for each in (*session.get_inputs(), *session.get_outputs())}
    names = (*config.past_names(), *config.present_names(), config.outputs.logits)
    missing = [name for name in names if name not in found]
    if missing:
        raise ModelInvalid(
            f"the decoder has no {missing[0]!r}, which genai_config.json names: export both anew"
        )
    kinds = {found[name].type for name in names[:-1]}
    kind = _TYPES.get(kinds.pop()) if len(kinds) == 1 else None
    if kind is None:
        raise ModelInvalid(
            "the decoder's keys and values must all be float32, or all float16: export it so"
        )
    return kind


def _logits_places(session: Untyped, config: GenaiConfig) -> tuple[type[np.floating[Any]], int]:
    """Return the logits' type, and of how many tokens of a run the decoder gives them where it has no `rows`; 0: of all."""
    (logits,) = (each for each in session.get_outputs() if each.name == config.outputs.logits)
    kind = _TYPES.get(logits.type)
    if kind is None:
        raise ModelInvalid(
            f"the decoder's logits are {logits.type}; they must be float32 or float16"
        )
    return kind, 1 if len(logits.shape) == 3 and logits.shape[1] == 1 else 0
