"""Reads samples for a stream: from a WAV file, or raw ones from a pipe. File IO."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Datatype

CHUNK_S: Final = 0.1
"""Seconds of a file that are read at a time (guess: little memory, and few messages)."""
READ_BYTES: Final = 16 * 1024
"""The most bytes of a pipe that are taken at a time; less as soon as there is something."""
_SAMPLE_BYTES: Final = 2
_FULL_SCALE: Final = 32_768.0
"""16-bit samples become fractions from -1 to 1 by that."""


def samples_of(path: Path, rate_hz: int, datatype: Datatype) -> Iterator[npt.NDArray[Any]]:
    """Yield the samples of a WAV file of one channel and 16 bits, as fractions where the model takes such.

    Raises:
        InvalidRequest: it is none, has another rate than `rate_hz`, which is 0 for any, or the model takes other numbers.
        OSError: it cannot be opened.
    """
    try:
        with wave.open(str(path)) as sound:
            form = sound.getnchannels(), 8 * sound.getsampwidth(), sound.getframerate()
            wanted = 1, 8 * _SAMPLE_BYTES, rate_hz or form[2]
            if form != wanted:
                raise InvalidRequest(
                    f"{path} has {form[0]} channels of {form[1]} bits at {form[2]} Hz; {wanted[0]} of {wanted[1]} bits at"
                    f" {wanted[2]} Hz is needed: ffmpeg -i {path} -ac 1 -ar {wanted[2]} -c:a pcm_s16le OTHER.wav"
                )
            frames = max(1, round(CHUNK_S * form[2]))
            while data := sound.readframes(frames):
                yield _numbers(np.frombuffer(data, "<i2"), datatype)
    except (wave.Error, EOFError) as exc:
        raise InvalidRequest(
            f"{path} is no WAV file that can be read: {exc}; ffmpeg -i {path} -ac 1 -c:a pcm_s16le OTHER.wav makes one"
        ) from exc


def raw_samples(pipe: IO[bytes]) -> Iterator[bytes]:
    """Yield what comes from a pipe, as soon as it comes."""
    read = getattr(pipe, "read1", pipe.read)
    while data := read(READ_BYTES):
        yield data


def _numbers(samples: npt.NDArray[np.int16], datatype: Datatype) -> npt.NDArray[Any]:
    if datatype in {Datatype.FP16, Datatype.FP32, Datatype.FP64}:
        return (samples / np.float32(_FULL_SCALE)).astype(datatype.numpy_dtype)
    if datatype is Datatype.INT16:
        return samples
    raise InvalidRequest(
        f"the model takes {datatype}, which 16-bit sound is not made into; send raw samples: capamesh stream MODEL -"
    )
