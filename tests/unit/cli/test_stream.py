"""`capamesh stream`: the sound that it reads, and what it prints of each window."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from capamesh.cli.sound_files import samples_of
from capamesh.client import Client, Datatype, ModelMetadata, Outputs, TensorSpec
from capamesh.client.answers import SampleWindow
from capamesh.protocol.errors import InvalidRequest, LinkLost, ModelUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from .conftest import Cli

RATE_HZ = 8000
SOUND = TensorSpec("sound", Datatype.FP32, (-1, -1))
PLAIN = ModelMetadata("vad", ("1",), "onnxruntime_onnx", (SOUND,), ())
MODEL = ModelMetadata(
    "vad", ("1",), "onnxruntime_onnx", (SOUND,), (), SampleWindow("sound", 400, 0, RATE_HZ)
)


def wav(folder: Path, samples: Iterable[int], channels: int = 1, rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.array([*samples], "<i2").tobytes())
    return folder / "a.wav"


def test_sound_comes_as_fractions_a_tenth_of_a_second_at_a_time_or_as_it_is(tmp_path: Path) -> None:
    path = wav(tmp_path, [-32768, 0, 16384] * 300)
    chunks = list(samples_of(path, RATE_HZ, Datatype.FP32))
    assert [len(chunk) for chunk in chunks] == [800, 100]
    assert (chunks[0][:3].tolist(), chunks[0].dtype) == ([-1.0, 0.0, 0.5], np.float32)
    (chunk,) = samples_of(wav(tmp_path, [7, -7]), 0, Datatype.INT16)
    assert chunk.tolist() == [7, -7]


def test_sound_of_another_form_is_refused_with_what_makes_it_fit(tmp_path: Path) -> None:
    for options, datatype, said in (
        ({"channels": 2}, "FP32", "has 2 channels of 16 bits at 8000 Hz; 1 of 16 bits at 8000 Hz"),
        ({"rate_hz": 44_100}, "FP32", "-ar 8000"),
        ({}, "INT64", "takes INT64"),
    ):
        path = wav(tmp_path, [1, 2, 3, 4], **options)
        with pytest.raises(InvalidRequest, match=said):
            list(samples_of(path, RATE_HZ, Datatype(datatype)))
    for data in (b"", b"ID3\x04 an mp3", b"RIFF\0\0\0\0WAVEfmt "):
        path.write_bytes(data)
        with pytest.raises(InvalidRequest, match="no WAV file that can be read"):
            list(samples_of(path, 0, Datatype.FP32))


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many samples each stream sent; the second of four windows fails, and the model is away before one."""
    sent: list[int] = []

    def metadata(*_: object) -> ModelMetadata:
        if not sent:
            raise ModelUnavailable("it is away")
        return MODEL

    def stream_samples(
        _: Client, model: str, samples: Iterable[Any], **options: Any
    ) -> Iterator[Outputs]:
        assert model == "vad"
        sent.append(sum(map(len, samples)))
        for at in range(4 if sent[-1] else 0):
            if at == 1:
                options["on_error"](LinkLost("the node is gone"))
            else:
                yield Outputs({"p": np.array([at])})

    monkeypatch.setattr(Client, "metadata", metadata)
    monkeypatch.setattr(Client, "stream_samples", stream_samples)
    return sent


def test_windows_are_printed_by_their_time_once_the_model_is_loaded_and_those_that_failed_told(
    streamed: list[int], tmp_path: Path, cli: Cli
) -> None:
    said = cli("stream vad", wav(tmp_path, range(1600)), status=3)
    assert said.lines == ["0.000 s p 0", "0.100 s p 2", "0.150 s p 3"]
    assert "a window was missed: the node is gone" in said.err
    assert streamed == [0, 1600]


def test_model_without_a_window_is_refused(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setattr(Client, "metadata", lambda *_: PLAIN)
    assert "declares no window" in cli("stream vad -", status=1).err
