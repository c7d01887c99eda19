"""Loads language models with ONNX Runtime, with as many slots as the memory has room for. Reads model files, uses the device."""

from __future__ import annotations

import os
import platform
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

from capamesh.node.runtime.decoders.decoder_folder import TOKENIZER_FILE, decoder_of
from capamesh.node.runtime.onnxruntime.binding import ort
from capamesh.node.runtime.onnxruntime.decoder_slots import THE_CPU, DecoderDevice, DecoderSlots
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
from capamesh.node.runtime.text_generation.text_model import TextModel
from capamesh.protocol.errors import ModelInvalid, RunFailed

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.decoders.genai_config import GenaiConfig

MOST_SLOTS: Final = 8
"""The sequences that are generated at once (guess: on a CPU more give hardly more tokens a second)."""
MOST_SLOTS_OF_DEVICE: Final = 32
"""The same of a device whose memory is apart (guess: a GPU reads its weights once for all of them, which is most of a step)."""
MOST_LENGTH: Final = 4096
"""The tokens of a slot (guess: longer chats on a CPU take minutes before their first token)."""
LEAST_LENGTH: Final = 256
POOL_SHARE: Final = 0.5
"""The share of the memory left beside the model that its slots may take (guess: other models and runs need some)."""
_WIDEST_BYTES: Final = 4
_OF_KERNELS: Final = ("model name", "flags", "Features", "CPU part", "cache size")
"""What /proc/cpuinfo tells of a processor that decides how it is used."""


def load_decoder(
    source: ModelSource, *, threads: int, free_bytes: int, device: DecoderDevice = THE_CPU
) -> LoadedDecoder:
    """Return the language model at `source`, which has generated a token on `device`, of which so many bytes are free. Blocks.

    Raises:
        NotOnDevice: the device does not run it.
        ModelInvalid: the folder is no decoder's, a package is missing, or the model does not run.
        OutOfMemory: there is no room for the model or its slots.
    """
    folder = decoder_of(source)
    most = MOST_SLOTS_OF_DEVICE if device.is_apart else MOST_SLOTS
    count, length = pool_of(folder.config, free_bytes - source.size_bytes, most)
    try:
        text = TextModel(
            folder,
            source.content.read(TOKENIZER_FILE),
            length=length,
            control_tokens_in_text=source.manifest.task.generation.control_tokens_in_text,
            arithmetic=arithmetic_of(device),
        )
        with source.content.reading() as path:
            slots = DecoderSlots(
                folder,
                count=count,
                length=length,
                threads=threads,
                onnx_file=path,
                device=device,
            )
    except OSError as exc:
        raise ModelInvalid(f"its files cannot be read: {exc}") from exc
    if source.manifest.task.generation.lookup_tokens and not slots.scores_each:
        raise ModelInvalid(
            "lookup_tokens needs a decoder that scores each token of a run, and this one scores the last alone: export it with all"
            " scores, or remove the key"
        )
    try:
        slots.extend(0, [0, 0], wants_logits=True)
        slots.decode([0])
    except RunFailed as exc:
        raise ModelInvalid(f"the decoder does not run: {exc.message}") from exc
    slots.truncate(0, 0)
    return LoadedDecoder(
        slots,
        text,
        provider=device.provider,
        precision="",
        keeps_prefixes=not device.is_apart,
    )


def arithmetic_of(device: DecoderDevice) -> str:
    """Return a name of the way in which runs round here: kernels are chosen by ONNX Runtime's version, the provider and the processor.

    On a GPU, and elsewhere than on Linux, it is not known what chooses them: nothing that was loaded has the name of another.
    """
    processor, _, _ = _read_processors().partition("\n\n")
    told = [ort.__version__, device.provider, platform.machine()]
    told += [line for line in processor.splitlines() if line.startswith(_OF_KERNELS)]
    if device.is_apart or not processor:
        told.append(os.urandom(8).hex())
    return blake2b("\n".join(told).encode(), digest_size=6).hexdigest()


def _read_processors() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""


def pool_of(config: GenaiConfig, free_bytes: int, most_slots: int = MOST_SLOTS) -> tuple[int, int]:
    """Return the number of slots, at most `most_slots`, and the tokens of each, for which there is room in `free_bytes` beside the model."""
    token_bytes = 2 * config.layers * config.kv_heads * config.head_size * _WIDEST_BYTES
    most = max(0, int(POOL_SHARE * free_bytes)) // token_bytes
    count, length = most_slots, min(config.context, MOST_LENGTH)
    while count > 1 and count * length > most:
        count //= 2
    while length > LEAST_LENGTH and count * length > most:
        length //= 2
    return count, length
