"""The reading in of CUDA's libraries: what ONNX Runtime prints is taken, not shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnxruntime
import pytest

from capamesh.node.runtime.onnxruntime.preload import CUDA_LINE, read_in_cuda


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    read_in_cuda.cache_clear()
    yield
    read_in_cuda.cache_clear()


def printing(*lines: str) -> Callable[[], None]:
    return lambda: print(*lines, sep="\n")  # noqa: T201 - as ONNX Runtime does


def test_libraries_that_cannot_be_read_in_are_told_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printing(
        "Failed to load libcublasLt.so.13: no such file",
        "Failed to load libcudart.so.13: no such file",
        "Please follow https://onnxruntime.ai/docs/install/ to install CUDA.",
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", said)
    assert read_in_cuda() == ("libcublasLt.so.13: no such file", "libcudart.so.13: no such file")
    assert capsys.readouterr().out == ""


def test_line_names_the_version_that_is_there() -> None:
    assert f"pip install 'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}'" == CUDA_LINE
