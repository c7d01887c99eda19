"""The compiled modules do what their sources do, byte for byte, and outlive an eager garbage collector."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from capamesh.protocol import implementation
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
RECORD = ROOT / "protocol/src/capamesh/protocol/compiled.json"

pytestmark = pytest.mark.skipif(
    implementation.RUNNING != "compiled",
    reason=f"what runs is pure Python: {implementation.REASON}; run: make compiled",
)


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child: with all orders of sets the same, and running what this process does."""
    return {**os.environ, "PYTHONHASHSEED": "0", **more}


def native_classes() -> list[type[Any]]:
    """Return the classes of the compiled modules that are compiled themselves: all but enumerations and the like."""
    found: list[type[Any]] = []
    for name in json.loads(RECORD.read_text()):
        module = importlib.import_module(name)
        assert str(module.__file__).endswith(".so"), f"{name} runs as {module.__file__}"
        found += [
            value
            for _, value in inspect.getmembers(module, inspect.isclass)
            if value.__module__ == name and "__mypyc_attrs__" in vars(value)
        ]
    return found


def test_compiled_classes_take_no_weak_references() -> None:
    """A collection may free what is in use if they do: https://github.com/mypyc/mypyc/issues/1102."""
    classes = native_classes()
    assert len(classes) > 100
    assert [each for each in classes if each.__weakrefoffset__ != 0] == []
    asked = InferCall(ModelName("m"), ModelVersion(""), (), ())
    with pytest.raises(TypeError, match="cannot create weak reference to 'InferCall' object"):
        weakref.ref(asked)


def test_garbage_collection_frees_nothing_that_is_in_use() -> None:
    folders = ["protocol/links", "router/requests", "router/balancing", "router/http"]
    done = subprocess.run(
        [
            sys.executable,
            str(SUPPORT / "gc_stress.py"),
            *(str(ROOT / "tests" / "unit" / folder) for folder in folders),
            *("-q", "-p", "no:cacheprovider"),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])


def started(count: int, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "many_requests.py"), str(count)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(child: subprocess.Popen[str]) -> dict[str, Any]:
    with child:
        said, errors = child.communicate(timeout=1800)
    assert child.returncode == 0, errors[-3000:]
    report: dict[str, Any] = json.loads(said)
    return report


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_compiled_modules_write_the_bytes_that_their_sources_write(count: int) -> None:
    children = started(count, CAPAMESH_PURE="1"), started(count, CAPAMESH_PURE="0")
    pure, compiled = map(told, children)

    assert (pure["running"], compiled["running"]) == ("pure", "compiled")
    assert pure["code"].endswith("connection.py")
    assert compiled["code"].endswith(".so")
    pairs = zip(pure["digests"], compiled["digests"], strict=True)
    differ = [number for number, (one, other) in enumerate(pairs) if one != other]
    assert differ[:1] == [], "the hundred of requests that is the first with other bytes"
    assert pure["seen"] == compiled["seen"]
    assert pure["logged"] == compiled["logged"] == []
    share = {status: number / count for status, number in pure["seen"].items()}
    assert share["200"] > 0.5, share
    assert share["400"] > 0.2, share
    assert set(share) >= {"200", "400", "404", "413", "500", "502", "503"}, share
