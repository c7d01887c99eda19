from __future__ import annotations

import os
from pathlib import Path

import pytest

from capamesh.node.profiling import cache_upkeep
from capamesh.node.profiling.cache_upkeep import MAX_PROFILES, PROFILES, UNUSED_S, clean

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


def test_entries_unused_for_longest_go_when_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_upkeep, "MAX_ENGINES", 2)
    batchers = [put_engine(tmp_path, f"sha256-{n}", unused_s=n) for n in (3, 1, 4, 2)]
    for n in range(MAX_PROFILES + 2):
        put(tmp_path / PROFILES / f"{n}.json", unused_s=n)
    assert clean(tmp_path, NOW_S) == 4
    assert [path.exists() for path in batchers] == [False, True, False, True]
    left = {path.name for path in (tmp_path / PROFILES).iterdir()}
    assert left == {f"{n}.json" for n in range(MAX_PROFILES)}


def test_cache_that_is_not_there_or_that_refuses_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clean(tmp_path / "nowhere", NOW_S) == 0
    put(tmp_path / PROFILES / "a.json", unused_s=UNUSED_S)

    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert clean(tmp_path, NOW_S) == 0
