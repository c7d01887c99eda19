"""Measurements of models, kept for the next start. Reads and writes small files.

A file a model and circumstances: its digest, the device, the runtime, the threads. One that cannot be read
is measured again; a full disk costs no more than that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from capamesh.node.scheduling.run_need import RunNeed
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.schema import Meta, Struct, given, read

MAX_FILE_BYTES: Final = 64 * 1024
"""Sixty times what a profile takes (guess)."""
MAX_POINTS: Final = 64
"""The most points of a profile that is read: doubling reaches any number of rows with fewer (shapes are of int64)."""

_Amount: TypeAlias = Annotated[float, Meta(ge=0, le=sys.float_info.max)]


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one model on one device."""

    profile: ServiceProfile | None
    """The times of runs; None if the model could not be run on generated inputs."""
    memory_bytes: int
    """The memory of the device that it holds once all its sessions are loaded and have run."""
    is_batching: bool
    """True if a batch gave what its parts give."""
    note: str = ""
    """The reason, for people, why it has no profile or does not batch; empty otherwise."""
    stream_profile: ServiceProfile | None = None
    """The times of one of several runs of one thread each beside one another; None if they do no more than one run of all
    threads."""
    is_one_threaded: bool = False
    """True if its runs have one thread each, of which `profile` is: they are short, and more would gain little."""
    peak_bytes: int = 0
    """The most that was seen while its sessions were loaded; what measuring larger batches takes is no part of it."""
    need: RunNeed | None = None
    """The memory of a run by its rows and their length; None where it could not be run."""


class _Point(Struct, frozen=True):
    """A point of a kept profile."""

    rows: int
    seconds: float


class _Profile(Struct, frozen=True):
    """A kept profile."""

    points: Annotated[tuple[_Point, ...], Meta(max_length=MAX_POINTS)]

    def value(self) -> ServiceProfile:
        """Return the profile; raise `ValueError` where the points are none."""
        return ServiceProfile(tuple(ProfilePoint(each.rows, each.seconds) for each in self.points))


class _Need(Struct, frozen=True):
    """A kept need of runs."""

    elements: Annotated[int, Meta(ge=1)]
    linear_bytes: _Amount
    square_bytes: _Amount
    element_s: _Amount


class _File(Struct, frozen=True):
    """A kept measurement and what it was made under."""

    key: dict[str, str]
    profile: _Profile | None
    memory_bytes: int
    peak_bytes: int
    is_batching: bool
    note: str
    stream_profile: _Profile | None
    is_one_threaded: bool
    need: _Need | None


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
        except (OSError, ValueError, RecursionError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # whoever removes old ones sees that it is in use
        return measured

    def put(self, key: Mapping[str, str], measured: Measured) -> None:
        """Keep `measured` under `key`; a file system that refuses keeps nothing."""
        if self._folder is None:
            return
        content = {
            **asdict(measured),
            "key": dict(key),
            "profile": measured.profile and measured.profile.to_json(),
            "stream_profile": measured.stream_profile and measured.stream_profile.to_json(),
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
    file = read(raw, _File)
    if file.key != key:
        raise ValueError("another file")
    profile, of_streams, need = file.profile, file.stream_profile, file.need
    return Measured(
        None if profile is None else profile.value(),
        file.memory_bytes,
        file.is_batching,
        file.note,
        None if of_streams is None else of_streams.value(),
        file.is_one_threaded,
        file.peak_bytes,
        None if need is None else RunNeed(**given(need)),
    )
