"""What was measured of models, kept for the next start. Reads and writes small files.

A file a model and circumstances: its digest, the device, the runtime, the threads. One that cannot be read
is measured again; a full disk costs no more than that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from capamesh.node.scheduling.run_need import RunNeed
from capamesh.node.scheduling.service_profile import ServiceProfile
from capamesh.protocol.errors import ConfigError

MAX_FILE_BYTES: Final = 64 * 1024
"""Sixty times what a profile takes (guess)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model takes on one device."""

    profile: ServiceProfile | None
    """None: it could not be run on generated inputs."""
    memory_bytes: int
    """Of the device, that it holds once all its sessions are loaded and have run."""
    is_batching: bool
    """Whether a batch gave what its parts give."""
    note: str = ""
    """Why it has no profile or does not batch, for people; empty otherwise."""
    stream_profile: ServiceProfile | None = None
    """Of one of several runs of one thread each beside one another; None: they do no more than one of all."""
    peak_bytes: int = 0
    """The most that was seen while its sessions were loaded; what measuring larger batches takes is no part of it."""
    need: RunNeed | None = None
    """The memory of a run by its rows and their length; None where it could not be run."""


class ProfileCache:
    """Measured models by what they were measured under."""

    def __init__(self, folder: Path | None) -> None:
        """Keep files in `folder`, made when needed; None keeps nothing."""
        self._folder = folder

    def get(self, key: Mapping[str, str]) -> Measured | None:
        """Return what was kept under `key`, None when there is nothing that can be read."""
        if self._folder is None:
            return None
        try:
            path = self._path(key)
            if path.stat().st_size > MAX_FILE_BYTES:
                return None
            measured = _read(json.loads(path.read_bytes()), dict(key))
        except (OSError, ValueError, TypeError, RecursionError, ConfigError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # whoever removes old ones sees that it is in use
        return measured

    def put(self, key: Mapping[str, str], measured: Measured) -> None:
        """Keep `measured` under `key`; a file system that refuses keeps nothing."""
        if self._folder is None:
            return
        content = {
            "key": dict(key),
            "profile": measured.profile.to_json() if measured.profile else None,
            "memory_bytes": measured.memory_bytes,
            "peak_bytes": measured.peak_bytes,
            "is_batching": measured.is_batching,
            "note": measured.note,
            "stream_profile": measured.stream_profile.to_json()
            if measured.stream_profile
            else None,
            "need": measured.need.to_json() if measured.need else None,
        }
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-")
            try:
                with os.fdopen(descriptor, "w") as stream:
                    json.dump(content, stream, indent=1)
                Path(temporary).replace(self._path(key))
            except OSError:
                Path(temporary).unlink(missing_ok=True)

    def _path(self, key: Mapping[str, str]) -> Path:
        assert self._folder is not None  # noqa: S101 - both callers have checked
        name = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:32]
        return self._folder / f"{name}.json"


def _read(raw: object, key: dict[str, str]) -> Measured:
    """Return what a file holds; raise `ValueError` where it is not what `put` wrote under `key`."""
    if not isinstance(raw, dict):
        raise ValueError("no object")  # noqa: TRY004 - one error for all bad files
    values = cast("dict[str, Any]", raw)
    profile, memory_bytes = values.get("profile"), values.get("memory_bytes")
    peak_bytes = values.get("peak_bytes")
    is_batching, note = values.get("is_batching"), values.get("note")
    if (
        values.get("key") != key
        or type(memory_bytes) is not int
        or type(peak_bytes) is not int
        or not isinstance(is_batching, bool)
        or not isinstance(note, str)
    ):
        raise ValueError("another file")
    of_streams = values.get("stream_profile", "missing")
    need = values.get("need", "missing")
    return Measured(
        None if profile is None else ServiceProfile.from_json(profile),
        memory_bytes,
        is_batching,
        note,
        None if of_streams is None else ServiceProfile.from_json(of_streams),
        peak_bytes,
        None if need is None else RunNeed.from_json(need),
    )
