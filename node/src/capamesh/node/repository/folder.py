"""Finds the models in a folder, and says of each that it cannot host why. Reads files.

One broken model never hides the others. Nothing outside the folder is read: links that leave it are
refused. Copy a model elsewhere and rename it into place, else a first scan may see half of it; later ones
wait until its files are a second old.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from capamesh.node.repository.file_stamp import FileStamp
from capamesh.node.repository.folder_files import (
    CONFIG_FILE,
    MANIFEST_FILE,
    MAX_WARM_UP_BYTES,
    FolderFiles,
    Seen,
    Unsettled,
    entries,
)
from capamesh.node.repository.labels import EVERY_OUTPUT, LABELS_FILE
from capamesh.node.repository.rule_checks import MODEL_NAME
from capamesh.node.repository.rules import VersionChoice, VersionPolicy
from capamesh.node.repository.signature import signature_path, signatures_of
from capamesh.node.repository.source import ModelSource
from capamesh.node.repository.triton.config_pbtxt import ONNX_FILE, ModelConfig
from capamesh.node.repository.triton.sequence_batching import INITIAL_FOLDER, MAX_INITIAL_BYTES
from capamesh.protocol.errors import ConfigError, ModelInvalid
from capamesh.protocol.ids import ModelName, ModelVersion

_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")  # fits a signed 64-bit number
_FIRST_VERSION: Final = "1"


@dataclass(frozen=True, slots=True)
class Refused:
    """A model or one version of it that cannot be hosted."""

    name: str
    """The name of its folder or file, which may be no valid model name."""
    version: str
    """Empty where the whole model is refused."""
    reason: str
    versions: tuple[str, ...] = ()
    """The versions of a whole model: those that its folder has, as far as its folder can be read."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The contents of a folder: models that can be loaded, and those that cannot, sorted by name and version."""

    models: tuple[ModelSource, ...] = ()
    refused: tuple[Refused, ...] = ()
    seen: Seen = field(default_factory=Seen, repr=False, compare=False)
    """The memory for the next scan."""


def scan(
    root: Path,
    *,
    before: Scan | None = None,
    now_ns: int | None = None,
    compute_capability: str = "",
) -> Scan:
    """Return the models under `root`, with the files that a GPU of `compute_capability` is to have.

    Files whose size and times are as in the scan `before` are not opened. With `now_ns`, the time since the
    epoch, a model of which a file was modified less than a second from it is not judged: what `before` said
    of it stands, so that it is left out where it is new.
    Raises ConfigError where `root` is no folder that can be read.
    """
    try:
        real_root = root.resolve(strict=True)
        found = [entry for entry in entries(real_root) if not entry.name.startswith(".")]
    except OSError as exc:
        raise ConfigError(
            f"the model folder {str(root)!r} cannot be read: {exc.strerror}; "
            "create it or name another"
        ) from exc
    scanner = _Scanner(real_root, before or Scan(), now_ns, compute_capability)
    for entry in found:
        try:
            is_folder, is_link = entry.is_dir(), entry.is_symlink()
        except OSError as exc:
            scanner.refuse(entry.name, "", exc)
            continue
        if is_folder:
            scanner.add_folder(real_root / entry.name, is_link=is_link)
        elif entry.name.endswith(".onnx"):
            scanner.add_bare(real_root / entry.name)
    return scanner.result()


class _Beside(NamedTuple):
    """Files of a model that no version's folder has."""

    warm_up: tuple[FileStamp, ...]
    states: tuple[FileStamp, ...]
    """The files of initial states: part of the digest of each version, which answers by them."""
    labels: tuple[tuple[str, FileStamp], ...]
    """(an output or `EVERY_OUTPUT`, the file with the names of its classes)."""
    notes: tuple[str, ...]
    """The notes on files that are not there or may not be read, and are done without."""


class _Scanner:
    """One pass over a folder."""

    def __init__(
        self, root: Path, before: Scan, now_ns: int | None, compute_capability: str
    ) -> None:
        self._root = root
        self._compute_capability = compute_capability
        self._before = before
        self._files = FolderFiles(root, before.seen, now_ns)
        self._models: dict[tuple[str, str], ModelSource] = {}
        self._refused: list[Refused] = []
        self._unsettled: set[str] = set()

    def result(self) -> Scan:
        """Return what was found; of the models that are not settled, what was there before."""
        models = [model for model in self._models.values() if model.name not in self._unsettled]
        for model in self._before.models:
            if model.name in self._unsettled:
                models.append(model)
                self._files.keep(model.content)
        refused = [one for one in self._refused if one.name not in self._unsettled]
        refused += [one for one in self._before.refused if one.name in self._unsettled]
        return Scan(
            tuple(sorted(models, key=lambda model: (model.name, int(model.version)))),
            tuple(sorted(refused, key=lambda one: (one.name, one.version))),
            seen=self._files.seen,
        )

    def add_folder(self, folder: Path, *, is_link: bool) -> None:
        """Add the versions in `folder`, a model in Triton's layout."""
        name = folder.name
        try:
            model = _checked_name(name)
            if is_link:
                self._files.check_inside(folder)
            config = self._files.config(name, folder / MANIFEST_FILE, folder / CONFIG_FILE)
            beside = self._beside(folder, config, LABELS_FILE)
            versions = self._chosen(folder, config)
        except (ModelInvalid, OSError) as exc:
            self.refuse(name, "", exc, versions=_versions_in(folder))
            return
        except Unsettled:
            self._unsettled.add(name)
            return
        file = config.file_for(self._compute_capability)
        for version in versions:
            self._add(model, version, folder / version / file, folder, config, beside)

    def add_bare(self, file: Path) -> None:
        """Add `file`, a model without a folder of its own."""
        name = file.stem
        try:
            model = _checked_name(name)
            config = self._files.config(name, file.with_name(f"{name}.{MANIFEST_FILE}"), None)
            _check_no_steps(name, config)
            beside = self._beside(self._root, config, f"{name}.{LABELS_FILE}")
        except (ModelInvalid, OSError) as exc:
            self.refuse(name, "", exc, versions=(_FIRST_VERSION,))
            return
        except Unsettled:
            self._unsettled.add(name)
            return
        self._add(model, _FIRST_VERSION, file, None, config, beside)

    def refuse(
        self,
        name: str,
        version: str,
        error: ModelInvalid | OSError,
        *,
        versions: tuple[str, ...] = (),
    ) -> None:
        """Add why a model, which has `versions`, or with `version` that of it, cannot be hosted."""
        reason = error.message if isinstance(error, ModelInvalid) else _os_reason(error)
        # The whole network is told of it, which need not know where the folder lies.
        reason = reason.replace(f"{self._root}/", "")
        self._refused.append(Refused(name, version, reason, versions))

    def _add(
        self,
        name: ModelName,
        version: str,
        onnx: Path,
        folder: Path | None,
        config: ModelConfig,
        beside: _Beside,
    ) -> None:
        """Add one version, or why it is refused; `folder` is the model's, None where it is a bare file."""
        try:
            self._check_version(name, version, onnx)
            if folder is not None and config.manifest.rules.steps:
                content = self._files.verified(folder, self._pipeline_files(folder, onnx))
            else:
                path = onnx if folder is None else self._onnx_path(folder / version, onnx)
                content = self._files.of_version(path, beside.states)
            digest = content.digest
            beside_it = signature_path(folder, onnx, name)
            signatures, problem = signatures_of(self._files, beside_it, name, version, digest)
        except (ModelInvalid, OSError) as exc:
            self.refuse(name, version, exc)
            return
        except Unsettled:
            self._unsettled.add(name)
            return
        self._models[name, version] = ModelSource(
            name=name,
            version=ModelVersion(version),
            content=content,
            manifest=config.manifest,
            declared=config.declared,
            warm_up_files=beside.warm_up,
            folder=folder,
            label_files=beside.labels,
            notes=(*config.notes, *beside.notes, *([problem] if problem else [])),
            signed=signatures[0] if signatures else b"",
            also_signed=signatures[1:],
        )

    def _onnx_path(self, version_folder: Path, onnx: Path) -> Path:
        """Return the ONNX file of a version: `onnx`, or a file in the folder of that name, as in Triton.

        Raises ModelInvalid where a link on the way to it leads out of the models folder.
        """
        path = onnx / ONNX_FILE if onnx.is_dir() else onnx
        folders = [version_folder, *(version_folder / up for up in _between(version_folder, path))]
        if any(folder.is_symlink() for folder in folders):
            self._files.check_inside(path.parent)
        return path

    def _pipeline_files(self, folder: Path, onnx: Path) -> tuple[FileStamp, ...]:
        """Return the file that says the steps of the pipeline that would have its ONNX file at `onnx`."""
        if onnx.exists():
            raise ModelInvalid(
                f"a pipeline has no file of its own; remove its steps or {str(onnx)!r}"
            )
        names = [name for name in (MANIFEST_FILE, CONFIG_FILE) if (folder / name).exists()]
        return (self._files.stamp(names[0], folder / names[0]),)

    def _check_version(self, name: ModelName, version: str, path: Path) -> None:
        if not _VERSION.fullmatch(version):
            raise ModelInvalid(
                f"version {version!r} is not a decimal number from 1 without a leading zero"
            )
        if (name, version) in self._models:
            raise ModelInvalid(
                f"version {version} is there twice, as a folder and as {path.name!r}; remove one"
            )

    def _beside(self, folder: Path, config: ModelConfig, labels: str) -> _Beside:
        """Return the files beside the versions that `config` names. Raises ModelInvalid where one is not as it must be."""
        names = {state.initial_file for state in config.manifest.rules.sequence.states} - {""}
        states = [
            self._files.stamp(f"{INITIAL_FOLDER}/{name}", folder / INITIAL_FOLDER / name)
            for name in sorted(names)
        ]
        for stamp in states:
            self._files.check_inside(stamp.path)
            if stamp.size_bytes > MAX_INITIAL_BYTES:
                raise ModelInvalid(
                    f"{stamp.name} has {stamp.size_bytes} bytes, at most {MAX_INITIAL_BYTES} are allowed"
                )
        files, notes = self._label_files(folder, config, labels)
        return _Beside(self._warm_up_files(folder, config), tuple(states), files, notes)

    def _label_files(
        self, folder: Path, config: ModelConfig, labels: str
    ) -> tuple[tuple[tuple[str, FileStamp], ...], tuple[str, ...]]:
        """Return the files that name classes, and notes on those that cannot be had: a model is served without them.

        They are those of `config`; where it names none, the file `labels` if it is there.
        """
        named = config.label_files
        if not named and os.path.lexists(folder / labels):
            named = ((EVERY_OUTPUT, labels),)
        files: list[tuple[str, FileStamp]] = []
        notes: list[str] = []
        for output, name in named:
            path = folder / name
            try:
                self._files.check_inside(path)  # a folder on the way to it may be a link, too
                files.append((output, self._files.stamp(name, path)))
            except (ModelInvalid, OSError) as exc:
                reason = exc.message if isinstance(exc, ModelInvalid) else _os_reason(exc)
                notes.append(f"{name} is ignored: {reason.replace(f'{self._root}/', '')}")
        return tuple(files), tuple(notes)

    def _warm_up_files(self, folder: Path, config: ModelConfig) -> tuple[FileStamp, ...]:
        """Return the files of all warm-ups; raises ModelInvalid where those of one are too large."""
        stamps: dict[str, FileStamp] = {}
        for warm_up in config.manifest.rules.warm_up:
            names = {file for _, file in warm_up.files}
            stamps |= {name: self._files.stamp(name, folder / name) for name in sorted(names)}
            size_bytes = sum(stamps[name].size_bytes for name in names)
            if size_bytes > MAX_WARM_UP_BYTES:
                raise ModelInvalid(
                    f"{', '.join(sorted(names))} of a warm-up have {size_bytes} bytes, at most "
                    f"{MAX_WARM_UP_BYTES} are allowed; warm up with fewer rows"
                )
        return tuple(stamps.values())

    def _chosen(self, folder: Path, config: ModelConfig) -> list[str]:
        """Return the version folders that the policy chooses, and those whose names are no versions."""
        found = [entry.name for entry in entries(folder) if entry.name.isdecimal()]
        rules = config.manifest.rules
        if not found and rules.steps:
            found = [_FIRST_VERSION]
        if not found:
            raise ModelInvalid(
                f"{folder.name!r} has no version folder; put the model at 1/{config.onnx_file}"
            )
        numbers = sorted(int(name) for name in found if _VERSION.fullmatch(name))
        chosen = set(_chosen(rules.versions, numbers))
        for missing in sorted(chosen - set(numbers)):
            place = f"{missing}/{config.onnx_file}"
            reason = f"version {missing} is asked for and has no folder; put the model at {place}"
            self.refuse(folder.name, str(missing), ModelInvalid(reason))
        return [name for name in found if not _VERSION.fullmatch(name) or int(name) in chosen]


def _chosen(policy: VersionPolicy, numbers: list[int]) -> Iterable[int]:
    """Return the versions that `policy` chooses of `numbers`, which ascend."""
    match policy.choice:
        case VersionChoice.ALL:
            return numbers
        case VersionChoice.LATEST:
            return numbers[-policy.count :]
        case VersionChoice.SPECIFIC:
            return policy.versions


def _versions_in(folder: Path) -> tuple[str, ...]:
    """Return the names of the version folders in `folder`; none where it cannot be read."""
    try:
        found = [entry.name for entry in entries(folder) if _VERSION.fullmatch(entry.name)]
    except OSError:
        return ()
    return tuple(sorted(found, key=int))


def _between(top: Path, file: Path) -> list[Path]:
    """Return the folders from `top` down to `file`, relative to `top`, without `top` itself."""
    return list(file.relative_to(top).parents)[:-1]


def _check_no_steps(name: str, config: ModelConfig) -> None:
    if config.manifest.rules.steps:
        raise ModelInvalid(
            f"{name}.{MANIFEST_FILE} has steps, and {name}.onnx is there; remove one of the two"
        )


def _checked_name(name: str) -> ModelName:
    if not MODEL_NAME.fullmatch(name):
        raise ModelInvalid(
            f"{name!r} is no model name: 1 to 256 letters, digits, '.', '_' and '-', no dot first"
        )
    return ModelName(name)


def _os_reason(error: OSError) -> str:
    where = str(error.filename or "a file of the model")
    return f"{where!r} cannot be read: {error.strerror or error}"
