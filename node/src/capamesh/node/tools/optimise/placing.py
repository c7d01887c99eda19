"""Puts an optimised model in its place: built in a hidden folder beside it, then renamed. Writes files."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

from capamesh.node.repository.external_data import checked_location
from capamesh.node.repository.folder_files import CONFIG_FILE, MANIFEST_FILE
from capamesh.node.repository.triton.config_pbtxt import ONNX_FILE
from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource

REPORT_FILE: Final = "report.json"


@dataclass(frozen=True, slots=True)
class Building:
    """A model that is being built; `root` is a models folder with nothing else."""

    root: Path
    name: str
    version: str
    onnx_name: PurePath
    """The path of its ONNX file, relative to the version's folder, as in the original, whose settings come along."""

    @property
    def model_folder(self) -> Path:
        """The folder that becomes the model's."""
        return self.root / self.name

    @property
    def onnx_file(self) -> Path:
        """Return the path at which the model itself goes."""
        return self.version_folder / self.onnx_name

    @property
    def version_folder(self) -> Path:
        """The folder that becomes the version's."""
        return self.model_folder / self.version


@dataclass(frozen=True, slots=True)
class Place:
    """A version of a model in a folder of models."""

    folder: Path
    name: str
    version: str

    @property
    def path(self) -> Path:
        """The version's folder."""
        return self.folder / self.name / self.version

    def check_free(self, *, may_replace: bool) -> None:
        """Raise ConfigError where something is in the way."""
        if not self.folder.parent.is_dir() or (self.folder.exists() and not self.folder.is_dir()):
            raise ConfigError(f"{self.folder} is no folder and cannot be made; name another --out")
        if self.path.exists() and not may_replace:
            raise ConfigError(f"{self.path} exists; replace it with --force or name another --out")

    @contextlib.contextmanager
    def building(self, onnx_name: PurePath = PurePath(ONNX_FILE)) -> Generator[Building]:  # noqa: B008 - immutable
        """Yield a place to build a model in, which is gone afterwards; its ONNX file is to be `onnx_name` in the version's folder.

        A folder made for it is gone too, if still empty.
        """
        is_new = not self.folder.exists()
        try:
            self.folder.mkdir(exist_ok=True)
            # A scan skips names that start with a dot, so that no node sees half a model.
            with tempfile.TemporaryDirectory(
                prefix=f".{self.name}.", dir=self.folder, ignore_cleanup_errors=True
            ) as root:
                building = Building(Path(root), self.name, self.version, onnx_name)
                building.onnx_file.parent.mkdir(parents=True)
                yield building
        except OSError as exc:
            raise ConfigError(f"cannot write the model to {self.folder}: {exc}") from exc
        finally:
            if is_new:
                with contextlib.suppress(OSError):
                    self.folder.rmdir()

    def take(self, building: Building) -> None:
        """Rename what was built into place; other versions of the model, and its manifest, stay."""
        model_folder = self.folder / self.name
        if not model_folder.exists():
            building.model_folder.rename(model_folder)
            return
        if self.path.exists():
            self.path.rename(building.root / "replaced")
        building.version_folder.rename(self.path)
        (building.model_folder / REPORT_FILE).replace(model_folder / REPORT_FILE)


def models_folder(source: ModelSource) -> Path:
    """Return the folder of models that `source` lies in."""
    return source.path.parent if source.folder is None else source.folder.parent


def copy_companions(source: ModelSource, building: Building) -> None:
    """Copy what belongs to `source` besides its ONNX file and its weights: manifest, labels, other files."""
    weights = {checked_location(name).as_posix() for name in source.content.onnx.locations}
    for file in source.files:
        if file.name != ONNX_FILE and file.name not in weights:
            _copy(file.path, building.onnx_file.parent / file.name)
    if source.folder is None:
        manifest = source.path.with_name(f"{source.name}.{MANIFEST_FILE}")
        if manifest.is_file():
            _copy(manifest, building.model_folder / MANIFEST_FILE)
        return
    for path in sorted(source.folder.iterdir()):
        if path.is_file() and path.name != REPORT_FILE:
            _copy(path, building.model_folder / path.name)
    _rename_in_pbtxt(building.model_folder / CONFIG_FILE, source.name, building.name)


def _rename_in_pbtxt(path: Path, before: str, after: str) -> None:
    """A `config.pbtxt` names its own model, if it has a name at all."""
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        named = re.compile(rf"^(\s*name\s*:\s*)([\"']){re.escape(before)}\2", re.MULTILINE)
        renamed = named.sub(rf"\g<1>\g<2>{after}\g<2>", text, count=1)
        path.write_text(renamed, encoding="utf-8", errors="surrogateescape")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def onnx_name_of(source: ModelSource) -> PurePath:
    """Return where the ONNX file of `source` lies in its version's folder."""
    if source.folder is None:
        return PurePath(ONNX_FILE)
    return source.path.relative_to(source.folder / source.version)
