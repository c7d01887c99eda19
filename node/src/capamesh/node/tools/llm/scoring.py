"""Runs a decoder as it is on one sequence: what it thinks of a text, and how fast it is. Loads and runs a model.

It is no scheduler: each input is bound anew for each run. What the engine of a node does is measured by benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.node.runtime.onnxruntime.binding import LOG_FATAL, Untyped, one_line, ort
from capamesh.node.tools.llm.report import Comparison, Score
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder

DECODE_STEPS: Final = 32
"""The tokens of the loop that is timed (guess: the median of so many is steady)."""
MAX_TOKENS: Final = 512
"""The most tokens of a text that is scored (guess: all logits of so many fill 300 MB with the largest vocabularies)."""
_PROVIDER: Final = "CPUExecutionProvider"
_DTYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class TrialDecoder:
    """One sequence of a decoder with a cache of its own."""

    def __init__(self, folder: DecoderFolder, *, threads: int, length: int) -> None:
        """`length` is the most tokens of the sequence. ModelInvalid: the runtime refuses the decoder, or it is not what its file says."""
        self.length = length
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = LOG_FATAL
        try:
            self._session: Untyped = ort.InferenceSession(
                str(folder.onnx_file), options, providers=[_PROVIDER]
            )
        except Exception as exc:  # the runtime raises whatever a graph leads to
            raise ModelInvalid(f"ONNX Runtime refuses the decoder: {one_line(exc)}") from exc
        self._used = 0
        self._types = {one.name: one.type for one in self._session.get_inputs()}
        self._config = folder.config.run_with(self._types)
        self._binding: Untyped = self._session.io_binding()
        self._cache = [
            self._bound(past, present)
            for past, present in zip(
                self._config.past_names(), self._config.present_names(), strict=True
            )
        ]

    def forget(self) -> None:
        """Begin a new sequence."""
        self._used = 0

    def feed(self, ids: Sequence[int], *, is_whole: bool = False) -> npt.NDArray[np.float32]:
        """Return the logits after the last of `ids`, or with `is_whole` after each of them, f32 [tokens, vocabulary].

        ModelInvalid: the runtime refuses the run.
        """
        names, end = self._config.inputs, self._used + len(ids)
        self._give(names.input_ids, np.array([ids], np.int64))
        self._give(names.seqlens_k, np.array([end - 1], np.int32))
        self._give(names.total_sequence_length, np.array([end], np.int32))
        places = range(len(ids)) if is_whole else (len(ids) - 1,)
        self._give(names.rows, np.array(places, np.int64))
        if names.attention_mask:
            mask = np.zeros((1, self.length), np.int64)
            mask[0, :end] = 1
            self._give(names.attention_mask, mask)
        self._give(names.position_ids, np.arange(self._used, end, dtype=np.int64)[None])
        self._binding.bind_output(self._config.outputs.logits, "cpu")
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as exc:
            raise ModelInvalid(f"the decoder does not run: {one_line(exc)}") from exc
        self._used = end
        logits = np.asarray(self._binding.get_outputs()[-1].numpy(), np.float32)
        return logits.reshape(-1, logits.shape[-1])

    def _give(self, name: str, array: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> None:
        """Bind an input that the decoder has; its settings may name more."""
        if name in self._types:
            kind = np.int32 if self._types[name] == "tensor(int32)" else np.int64
            self._binding.bind_cpu_input(name, array.astype(kind))

    def _bound(self, past: str, present: str) -> npt.NDArray[Any]:
        """Return a tensor of the cache, [1, heads of keys, length, head size], bound as input and as output for good."""
        config = self._config
        dtype = _DTYPES.get(self._types.get(past, ""))
        if dtype is None:
            raise ModelInvalid(
                f"the decoder has no input {past!r} of floats of 32 or 16 bits, as its settings say"
            )
        held = np.zeros((1, config.kv_heads, self.length, config.head_size), dtype)
        self._binding.bind_input(past, "cpu", 0, dtype, held.shape, held.ctypes.data)
        try:
            self._binding.bind_output(present, "cpu", 0, dtype, held.shape, held.ctypes.data)
        except Exception as exc:
            raise ModelInvalid(f"the decoder has no output {present!r}: {one_line(exc)}") from exc
        return held


def score(
    decoder: TrialDecoder, ids: Sequence[int], *, clock_s: Callable[[], float]
) -> tuple[Score, npt.NDArray[np.float32]]:
    """Return what a decoder thinks of a text's tokens and how fast it is, and its logits after each, f32 [tokens, vocabulary].

    ModelInvalid: it does not run, or what it says are no numbers.
    """
    decoder.feed(ids)  # the first run of a length is slow
    decoder.forget()
    began_s = clock_s()
    logits = decoder.feed(ids, is_whole=True)
    prompt_s = clock_s() - began_s
    if len(logits) != len(ids):  # a decoder that gives the last token's logits alone
        decoder.forget()
        logits = np.concatenate([decoder.feed([one]) for one in ids])
    steps = min(DECODE_STEPS, decoder.length - len(ids))
    gaps_s: list[float] = []
    last = int(logits[-1].argmax())
    for _ in range(steps):
        began_s = clock_s()
        last = int(decoder.feed([last])[0].argmax())
        gaps_s.append(clock_s() - began_s)
    if not np.isfinite(logits).all():
        raise ModelInvalid("the model's answers are no numbers: its weights are damaged")
    gap_s = float(np.median(gaps_s)) if gaps_s else 0.0
    found = Score(
        len(ids) - 1,
        loss(logits, ids),
        1 / gap_s if gap_s > 0 else 0.0,
        len(ids) / prompt_s if prompt_s > 0 else 0.0,
    )
    return found, logits


def compared(
    logits: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], ids: Sequence[int]
) -> Comparison:
    """Return how a source's logits on the same text, both f32 [tokens, vocabulary], compare."""
    agreement = float((logits.argmax(-1) == reference.argmax(-1)).mean())
    return Comparison(loss(reference, ids), agreement)


def loss(logits: npt.NDArray[np.float32], ids: Sequence[int]) -> float:
    """Return the mean negative logarithm of the probability of each next token, where `logits`, f32 [tokens, vocabulary], are those after each."""
    total = 0.0
    for row, target in zip(logits[:-1], ids[1:], strict=True):
        values = row.astype(np.float64)
        most = values.max()
        total += float(most + np.log(np.exp(values - most).sum()) - values[target])
    return total / (len(ids) - 1)
