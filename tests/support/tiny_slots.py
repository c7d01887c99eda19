"""A decoder's slots in the plainest way, for tests of decoders: each run binds everything anew. Runs models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder

QUIET = 4  # the level of logs


class TinySlots:
    """Slots of one buffer for each input of the cache; past and present are the same memory."""

    def __init__(self, folder: DecoderFolder, *, slots: int, length: int = 64) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = QUIET
        self.session = ort.InferenceSession(
            str(folder.onnx_file), options, providers=["CPUExecutionProvider"]
        )
        config = folder.config
        shape = (slots, config.kv_heads, length, config.head_size)
        kinds = {one.name: one.type for one in self.session.get_inputs()}
        half = kinds[config.past_names()[0]] == "tensor(float16)"
        self._cache = [
            (past, present, np.zeros(shape, np.float16 if half else np.float32))
            for past, present in zip(config.past_names(), config.present_names(), strict=True)
        ]
        self.used = [0] * slots

    def extend(
        self, slot: int, ids: Sequence[int], rows: Sequence[int] | None = None
    ) -> np.ndarray:
        """Feed tokens to one slot; return the logits of some of them, or of all, f32 [rows, vocabulary]."""
        places = range(len(ids)) if rows is None else rows
        return self._run(slot, np.array([ids], np.int64), places)

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Feed one token to each of the first slots; return the logits, f32 [slots, vocabulary]."""
        return self._run(0, np.array(ids, np.int64)[:, None], range(len(ids)))

    def truncate(self, slot: int, count: int) -> None:
        """Forget all but the first tokens of a slot."""
        self.used[slot] = count

    def _run(self, first: int, ids: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        slots = range(first, first + len(ids))
        ends = [self.used[slot] + ids.shape[1] for slot in slots]
        io = self.session.io_binding()
        io.bind_cpu_input("input_ids", ids)
        io.bind_cpu_input("seqlens_k", np.array(ends, np.int32) - 1)
        io.bind_cpu_input("total_sequence_length", np.array([max(ends)], np.int32))
        io.bind_cpu_input("rows", np.array(rows, np.int64))
        for past, present, held in self._cache:
            part = held[first : first + len(ids)]
            io.bind_input(past, "cpu", 0, part.dtype, part.shape, part.ctypes.data)
            io.bind_output(present, "cpu", 0, part.dtype, part.shape, part.ctypes.data)
        io.bind_output("logits", "cpu")
        self.session.run_with_iobinding(io)
        for slot, end in zip(slots, ends, strict=True):
            self.used[slot] = end
        return io.get_outputs()[-1].numpy()
