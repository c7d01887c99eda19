"""What is measured of models, and kept."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import LIMIT_S

from capamesh.node.profiling import cache_upkeep, profile_cache
from capamesh.node.profiling.cache_upkeep import MAX_PROFILES, PROFILES, UNUSED_S, clean
from capamesh.node.profiling.memory_watch import MemoryWatch
from capamesh.node.profiling.output_watch import OutputWatch
from capamesh.node.profiling.profile_cache import MAX_FILE_BYTES, Measured, ProfileCache
from capamesh.node.runtime.api import LoadedModel
from capamesh.node.scheduling.run_need import RunNeed
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec


class Memory:
    """Of a device; tells when a level was seen."""

    def __init__(self) -> None:
        self.used = 1_000
        self._level = 0
        self._is_seen = threading.Event()

    def __call__(self) -> int:
        used = self.used
        if used == self._level:
            self._is_seen.set()
        return used

    def at(self, level: int) -> None:
        """Be at `level` until that is seen; blocks."""
        self._is_seen.clear()
        self.used = self._level = level
        assert self._is_seen.wait(LIMIT_S)


def test_most_that_is_in_use_meanwhile_is_the_peak() -> None:
    memory = Memory()
    watch = MemoryWatch(memory)
    with watch:
        memory.at(5_000)
        memory.at(3_000)
    assert (watch.held_bytes(), watch.peak_bytes()) == (2_000, 4_000)
    memory.used = 900  # others gave back more than was taken
    assert watch.held_bytes() == 0


def test_watch_ends_with_what_it_watches_though_that_fails() -> None:
    with pytest.raises(ZeroDivisionError), MemoryWatch(Memory()):
        raise ZeroDivisionError
    assert all(thread.name != "memory" for thread in threading.enumerate())


class Model:
    """Gives what it was made with, one after the other."""

    provider = "fake"

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.shapes = list(shapes)

    def run(self, *_: object) -> list[Tensor]:
        return [Tensor.from_numpy("y", np.zeros(self.shapes.pop(0), np.float32))]


@pytest.mark.parametrize(
    ("declared", "seen", "reported"),
    [
        ((1, 2), [(4, 2)], (-1, 2)),
        ((-1, 128), [(1, 64), (2, 64)], (-1, -1)),
        ((2,), [(2, 3)], ()),
        ((), [(2, 3)], ()),
    ],
)
def test_declaration_is_widened_by_what_was_seen(
    declared: tuple[int, ...], seen: list[tuple[int, ...]], reported: tuple[int, ...]
) -> None:
    watch = OutputWatch(cast("LoadedModel", Model(*seen)))
    for _ in seen:
        watch.run(())
    specs = (TensorSpec("y", Datatype.FP32, declared), TensorSpec("z", Datatype.FP32, (7,)))
    assert [spec.shape for spec in watch.widened(specs)] == [reported, (7,)]
    assert watch.provider == "fake"


KEY = {"digest": "sha256-chunks:00", "device": "cpu"}
PROFILE = ServiceProfile((ProfilePoint(1, 0.001), ProfilePoint(2, 0.0015)))
NEED = {"elements": 64, "linear_bytes": 10.0, "square_bytes": 0.5, "element_s": 0.001}
MEASURED = Measured(PROFILE, 123, is_batching=True, need=RunNeed(**NEED))

profiles = st.builds(
    lambda rows, seconds: ServiceProfile(
        tuple(ProfilePoint(*pair) for pair in zip(sorted(rows), seconds, strict=False))
    ),
    st.sets(st.integers(1, 2**40), min_size=1, max_size=8),
    st.lists(st.floats(1e-9, 1e6), min_size=8, max_size=8),
)
measurements = st.builds(
    Measured,
    st.none() | profiles,
    st.integers(0, 2**60),
    is_batching=st.booleans(),
    note=st.text(st.characters(codec="utf-8"), max_size=50),
    stream_profile=st.none() | profiles,
    is_one_threaded=st.booleans(),
    peak_bytes=st.integers(0, 2**60),
    need=st.none()
    | st.builds(
        RunNeed, st.integers(1, 2**40), *(st.floats(0, most) for most in (1e12, 1e12, 1e6))
    ),
)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@given(measured=measurements, values=st.lists(st.text(max_size=20), min_size=2, max_size=2))
def test_profile_is_given_back_only_under_its_own_key(
    tmp_path_factory: pytest.TempPathFactory, measured: Measured, values: list[str]
) -> None:
    cache = ProfileCache(tmp_path_factory.mktemp("cache"))
    key = dict(zip(("digest", "device"), values, strict=True))
    assert cache.get(key) is None
    cache.put(key, measured)
    assert cache.get(key) == measured
    assert cache.get(dict(reversed(key.items()))) == measured
    assert cache.get({**key, "digest": key["digest"] + "0"}) is None
    assert cache.get({**key, "threads": "1"}) is None


def test_measurement_that_is_used_says_so_by_its_file_s_time(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path)
    cache.put(KEY, MEASURED)
    path = only_file(tmp_path)
    os.utime(path, (1_000, 1_000))
    assert cache.get({**KEY, "device": "another"}) is None
    assert path.stat().st_mtime == 1_000
    assert cache.get(KEY) == MEASURED
    assert path.stat().st_mtime > 1_000


def test_folder_is_made_when_it_is_needed_and_is_nobody_else_s(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    cache = ProfileCache(folder)
    assert cache.get(KEY) is None
    assert not folder.exists()
    cache.put(KEY, MEASURED)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert only_file(folder).stat().st_mode & 0o777 == 0o600


@given(junk=st.binary(max_size=200))
def test_junk_is_no_measurement(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = ProfileCache(folder)
    cache.put(KEY, MEASURED)
    only_file(folder).write_bytes(junk)
    assert cache.get(KEY) is None
    cache.put(KEY, MEASURED)
    assert cache.get(KEY) == MEASURED


@pytest.mark.parametrize(
    "changes",
    [
        {"key": {**KEY, "device": "another"}},
        {"memory_bytes": True},
        {"peak_bytes": None},
        {"is_batching": 1},
        {"profile": {"points": []}},
        {"profile": {"points": [{"rows": 1, "seconds": -1.0}]}},
        {"profile": {"points": [{"rows": rows, "seconds": 1} for rows in range(1, 66)]}},
        {"stream_profile": {"points": [{"rows": 1}]}},
        {"need": {**NEED, "elements": 0}},
        {"need": {**NEED, "linear_bytes": -1}},
        {"need": {**NEED, "square_bytes": float("inf")}},
    ],
    ids=str,
)
def test_file_with_another_value_is_no_measurement(tmp_path: Path, changes: dict[str, Any]) -> None:
    cache = ProfileCache(tmp_path)
    cache.put(KEY, MEASURED)
    path = only_file(tmp_path)
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content))
    assert cache.get(KEY) == MEASURED
    path.write_text(json.dumps({**content, **changes}))
    assert cache.get(KEY) is None


def test_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path)
    cache.put(KEY, MEASURED)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes().ljust(MAX_FILE_BYTES))
    assert cache.get(KEY) == MEASURED
    path.write_bytes(path.read_bytes() + b" ")
    assert cache.get(KEY) is None


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ProfileCache(tmp_path)
    cache.put(KEY, MEASURED)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(profile_cache.json, "dump", full)
    cache.put(KEY, Measured(None, 1, is_batching=False))
    assert cache.get(KEY) == MEASURED
    assert only_file(tmp_path).suffix == ".json"


NOW_S = 1e9


def put(path: Path, *, unused_s: float = 0.0) -> Path:
    """Make a file that was used so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (NOW_S - unused_s,) * 2)
    return path


def put_engine(cache: Path, name: str, *, unused_s: float = 0.0) -> Path:
    """Make a model's folder of engines that was used so long ago."""
    put(cache / name / "an.engine")
    os.utime(cache / name, (NOW_S - unused_s,) * 2)
    return cache / name


def test_entries_unused_for_long_are_removed_and_all_else_stays(tmp_path: Path) -> None:
    profiles = tmp_path / PROFILES
    old = [
        put(profiles / "a.json", unused_s=UNUSED_S),
        put(profiles / ".new-cut-short", unused_s=UNUSED_S + 1),
        put_engine(tmp_path, "sha256-chunks-00", unused_s=UNUSED_S),
    ]
    kept = [
        put(profiles / "b.json", unused_s=UNUSED_S - 1),
        put_engine(tmp_path, "sha256-chunks-11", unused_s=UNUSED_S - 1),
        put(tmp_path / "TensorrtExecutionProvider.timing", unused_s=9 * UNUSED_S),
        put(tmp_path / "notes" / "mine.txt", unused_s=9 * UNUSED_S),
    ]
    assert clean(tmp_path, NOW_S) == 3
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)
    assert clean(tmp_path, NOW_S) == 0


def test_oldest_of_too_many_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_upkeep, "MAX_ENGINES", 2)
    batchers = [put_engine(tmp_path, f"sha256-{n}", unused_s=n) for n in (3, 1, 4, 2)]
    for n in range(MAX_PROFILES + 2):
        put(tmp_path / PROFILES / f"{n}.json", unused_s=n)
    assert clean(tmp_path, NOW_S) == 4
    assert [path.exists() for path in batchers] == [False, True, False, True]
    left = {path.name for path in (tmp_path / PROFILES).iterdir()}
    assert left == {f"{n}.json" for n in range(MAX_PROFILES)}
