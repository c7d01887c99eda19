"""Removes what a cache folder keeps of models that are gone. Reads and removes files.

A profile or an engine is kept by its model's digest, so that every file that ever was in the models folder leaves
some behind. Whoever uses one sets its modification time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from capamesh.node.runtime.onnxruntime.providers import engine_folder

UNUSED_S: Final = 90 * 86_400.0
"""An entry that no start of a model has used for this long is removed (guess: a quarter; a worker seldom runs that long)."""
MAX_PROFILES: Final = 1_000
"""The most profiles, of a few KB each (guess: ten times the models of a full node); those unused for longest go first."""
MAX_ENGINES: Final = 100
"""The most engines, each as large as its model's weights (guess: more are not on the device at the same time)."""
PROFILES: Final = "profiles"


def clean(folder: Path, now_s: float) -> int:
    """Remove what is due in the cache `folder`; return how many files and folders. What cannot be removed stays."""
    profiles = (folder / PROFILES).glob("*")
    # Of digests of the form before this one, too: nobody asks for those any more.
    batchers = folder.glob(engine_folder(folder, "sha256*:*").name)
    return _clean(profiles, MAX_PROFILES, now_s, Path.unlink) + _clean(
        batchers, MAX_ENGINES, now_s, shutil.rmtree
    )


def _clean(paths: Iterable[Path], most: int, now_s: float, remove: Callable[[Path], object]) -> int:
    by_use: list[tuple[float, Path]] = []
    for path in paths:
        with suppress(OSError):
            by_use.append((path.stat().st_mtime, path))
    by_use.sort(reverse=True)
    removed = 0
    for place, (used_s, path) in enumerate(by_use):
        if place < most and now_s - used_s < UNUSED_S:
            continue
        with suppress(OSError):
            remove(path)
            removed += 1
    return removed
