"""The language model that nodes of a world host: it counts on from its prompt, a step in virtual time. Pure but for libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from typing_extensions import override

from capamesh.node.generation import Slots
from capamesh.node.generation.slots import CacheBlock, Logits
from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder
from capamesh.node.runtime.decoders.genai_config import parse_genai_config
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
from capamesh.node.runtime.text_generation.text_model import TextModel
from capamesh.simulation.world.virtual_threads import RUNNING

NAME = "g"
STEP_S = 0.01
"""Seconds of a step."""
MOST_SLOWNESS = 5.0
"""The most times that a step takes longer: answers stay within their deadlines where other models' do not."""
MOST_TOKENS = 60
"""The most tokens that are asked of it."""
MOST_REPLAYED = 4
"""The most tokens that are replayed at once."""
LENGTH = 128
VOCABULARY = 1024


def words_after(prompt: int, count: int) -> list[str]:
    """Return what it says to a number: those that follow."""
    return [str(prompt + at) for at in range(1, count + 1)]


class CountingSlots(Slots):
    """Slots whose every token is followed by the next number, as long as an answer's tokens are run as such.

    Prompts have one token. What is run together behind it rounds otherwise than a step would have, and from then on it counts from one too many.
    """

    def __init__(self, slowness: Callable[[], float]) -> None:
        """`slowness` says how many times longer than usual a step takes."""
        self.count, self.length = 4, LENGTH
        self.token_bytes, self.vocabulary = 8, VOCABULARY
        self.scores_each = True
        self.most_replayed = MOST_REPLAYED
        self._slowness = slowness
        self._held: list[list[tuple[int, int]]] = [[] for _ in range(self.count)]
        """Tokens, each with what its successor is too large by."""

    @override
    def decode(self, tokens: Sequence[int]) -> Logits:
        for slot, token in enumerate(tokens):
            self._append(slot, token)
        self._pass_time()
        return np.stack([self._logits(slot) for slot in range(len(tokens))])

    @override
    def extend(self, slot: int, tokens: Sequence[int], *, wants_logits: bool) -> Logits | None:
        for token in tokens:
            self._append(slot, token, 1 if self._held[slot] else 0)
        self._pass_time()
        return self._logits(slot) if wants_logits else None

    @override
    def replay(
        self, pieces: Sequence[tuple[int, Sequence[int]]], *, wants_logits: bool
    ) -> Logits | None:
        for slot, tokens in pieces:
            for token in tokens:
                self._append(slot, token)
        self._pass_time()
        return np.stack([self._logits(slot) for slot, _ in pieces]) if wants_logits else None

    @override
    def score(self, slot: int, tokens: Sequence[int]) -> Logits:
        found: list[Logits] = []
        for token in tokens:
            self._append(slot, token, 1)
            found.append(self._logits(slot))
        self._pass_time()
        return np.stack(found)

    @override
    def copy(self, source: int, target: int, count: int) -> None:
        self._held[target] = self._held[source][:count]

    @override
    def truncate(self, slot: int, count: int) -> None:
        del self._held[slot][count:]

    @override
    def used(self, slot: int) -> int:
        return len(self._held[slot])

    @override
    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        return np.array(self._held[slot][start:stop]).reshape(-1, 2)

    @override
    def load(self, slot: int, block: CacheBlock, count: int) -> None:
        self._held[slot] += [(token, error) for token, error in block[:count].tolist()]

    @override
    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def _append(self, slot: int, token: int, error: int = 0) -> None:
        held = self._held[slot]
        held.append((token, max(error, held[-1][1] if held else 0)))

    def _pass_time(self) -> None:
        RUNNING.get().sleep(STEP_S * min(self._slowness(), MOST_SLOWNESS))

    def _logits(self, slot: int) -> Logits:
        logits = np.zeros(VOCABULARY, np.float32)
        logits[sum(self._held[slot][-1]) + 1] = 1.0
        return logits


def decoder(slowness: Callable[[], float]) -> LoadedDecoder:
    """Return it loaded."""
    return LoadedDecoder(
        CountingSlots(slowness), _text(), provider="CPUExecutionProvider", precision="fp32"
    )


@cache
def _text() -> TextModel:
    model = {
        "decoder": {
            "filename": "model.onnx",
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_size": 1,
            "inputs": {"attention_mask": "attention_mask"},
        },
        "vocab_size": VOCABULARY,
        "context_length": LENGTH,
        "eos_token_id": 0,
    }
    config = parse_genai_config(json.dumps({"model": model}).encode(), "genai_config.json")
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {str(number): number for number in range(VOCABULARY)},
            "unk_token": "0",
        },
    }
    folder = DecoderFolder(Path("g/1"), config, "")
    return TextModel(folder, json.dumps(tokenizer).encode(), length=LENGTH)
