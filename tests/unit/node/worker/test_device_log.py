"""The lines of a worker's log on the device of its models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from structlog import get_logger
from structlog.testing import capture_logs

from capamesh.node.worker.device_log import log_device


def logged(kind: str, missing: tuple[str, ...] = ()) -> list[Any]:
    start = SimpleNamespace(device_kind=kind, device_name="a device")
    backend = SimpleNamespace(default_provider="P", missing_libraries=missing)
    with capture_logs() as lines:
        log_device(get_logger(), cast("Any", start), cast("Any", backend))
    return lines


def test_device_and_its_provider_are_told_with_the_reason() -> None:
    (line,) = logged("cpu")
    assert line == {
        "event": "device",
        "kind": "cpu",
        "name": "a device",
        "provider": "P",
        "because": "the NVIDIA driver shows no GPU",
        "log_level": "info",
    }
    (line,) = logged("cuda")
    assert line["because"] == "the NVIDIA driver shows it"


def test_libraries_that_are_missing_are_an_error_with_the_line_to_run() -> None:
    _, line = logged("cuda", ("libcudart.so.13: no such file",))
    assert (line["event"], line["log_level"]) == ("cuda_libraries_missing", "error")
    assert line["missing"] == ["libcudart.so.13: no such file"]
    assert line["run"].startswith("pip install 'onnxruntime-gpu[cuda,cudnn]==")
