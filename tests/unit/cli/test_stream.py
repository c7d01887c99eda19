"""`capamesh stream`: the sound that it reads, and what it prints of each window."""

from __future__ import annotations

import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capamesh.cli.__main__ import run
from capamesh.cli.sound_files import samples_of
from capamesh.client import Client, Datatype, ModelMetadata, Outputs, TensorSpec
from capamesh.client.answers import SampleWindow
from capamesh.protocol.errors import InvalidRequest, LinkLost, ModelUnavailable

RATE_HZ = 8000
SOUND = TensorSpec("sound", Datatype.FP32, (-1, -1))
MODEL = ModelMetadata(
    "vad", ("1",), "onnxruntime_onnx", (SOUND,), (), SampleWindow("sound", 400, 0, RATE_HZ)
)


def wav(path: Path, samples: Iterable[int], channels: int = 1, rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.array([*samples], "<i2").tobytes())
    return path


def test_sound_comes_as_fractions_a_tenth_of_a_second_at_a_time(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", [-32768, 0, 16384] * 300)
    chunks = list(samples_of(path, RATE_HZ, Datatype.FP32))
    assert [len(chunk) for chunk in chunks] == [800, 100]
    assert chunks[0][:3].tolist() == [-1.0, 0.0, 0.5]
    assert chunks[0].dtype == np.float32


def test_models_of_whole_numbers_get_the_samples_as_they_are(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", [7, -7])
    (chunk,) = samples_of(path, 0, Datatype.INT16)
    assert chunk.tolist() == [7, -7]
    with pytest.raises(InvalidRequest, match="takes INT64"):
        list(samples_of(path, 0, Datatype.INT64))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 2}, "has 2 channels of 16 bits at 8000 Hz; 1 of 16 bits at 8000 Hz"),
        ({"rate_hz": 44_100}, "-ar 8000"),
    ],
)
def test_sound_of_another_form_is_refused_with_what_makes_it_fit(
    tmp_path: Path, options: dict[str, int], said: str
) -> None:
    path = wav(tmp_path / "a.wav", [1, 2, 3, 4], **options)
    with pytest.raises(InvalidRequest, match=said):
        list(samples_of(path, RATE_HZ, Datatype.FP32))


@pytest.mark.parametrize("data", [b"", b"ID3\x04 an mp3", b"RIFF\0\0\0\0WAVEfmt "])
def test_file_that_is_no_sound_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(InvalidRequest, match="no WAV file that can be read"):
        list(samples_of(path, 0, Datatype.FP32))


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the samples that were sent; every second of four windows fails."""
    sent: list[Any] = []

    def stream_samples(
        _: Client, model: str, samples: Iterable[Any], **options: Any
    ) -> Iterator[Outputs]:
        assert model == "vad"
        sent.extend(samples)
        for at in range(4):
            if at == 1:
                options["on_error"](LinkLost("the node is gone"))
            else:
                yield Outputs({"p": np.array([at])})

    monkeypatch.setattr(Client, "metadata", lambda *_: MODEL)
    monkeypatch.setattr(Client, "stream_samples", stream_samples)
    return sent


def test_windows_are_printed_by_their_time_and_those_that_failed_told(
    streamed: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = wav(tmp_path / "a.wav", range(1600))
    assert run(["stream", "vad", str(path)]) == 3
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "    0.000 s  p 0",
        "    0.100 s  p 2",
        "    0.150 s  p 3",
    ]
    assert "a window was missed: the node is gone" in printed.err
    assert sum(map(len, streamed)) == 1600


def test_model_that_is_away_is_loaded_by_a_stream_without_samples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[int] = []

    def metadata(*_: object) -> ModelMetadata:
        if not sent:
            raise ModelUnavailable("it is away")
        return MODEL

    def stream_samples(_: Client, _model: str, samples: Iterable[Any], **_2: Any) -> Iterator[Any]:
        sent.append(sum(map(len, samples)))
        return iter(())

    monkeypatch.setattr(Client, "metadata", metadata)
    monkeypatch.setattr(Client, "stream_samples", stream_samples)
    assert run(["stream", "vad", str(wav(tmp_path / "a.wav", range(800)))]) == 0
    assert sent == [0, 800]


def test_model_without_a_window_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ModelMetadata("iris", ("1",), "onnxruntime_onnx", (SOUND,), ())
    monkeypatch.setattr(Client, "metadata", lambda *_: plain)
    assert run(["stream", "iris", "-"]) != 0
    assert "declares no window" in capsys.readouterr().err
