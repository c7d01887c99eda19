"""Finds the models that a path means: a bare file, a version, a model or a whole folder. Reads files."""

from __future__ import annotations

from pathlib import Path

from capamesh.node.repository import ModelSource, Scan, scan
from capamesh.node.repository.folder_files import CONFIG_FILE, MANIFEST_FILE
from capamesh.node.repository.triton.config_pbtxt import ONNX_FILE
from capamesh.protocol.errors import ConfigError, ModelInvalid

EXPECTED = (
    "give NAME.onnx, a model's folder NAME with NAME/VERSION/model.onnx, one VERSION folder of it, "
    "or a folder of models"
)


def find_models(path: Path, compute_capability: str = "") -> Scan:
    """Return what a node would find at `path`, judged as in the models folder around it; never empty.

    A GPU of `compute_capability` may have a file of its own.

    ConfigError: nothing there can be read as a model.
    """
    try:
        path = path.resolve(strict=True)
    except (OSError, RuntimeError) as exc:  # RuntimeError: a loop of links
        raise ConfigError(f"{str(path)!r} cannot be read: {exc}; {EXPECTED}") from exc
    root, name, version = _place(path)
    everything = scan(root, compute_capability=compute_capability)
    found = Scan(
        tuple(
            model
            for model in everything.models
            if name in {"", model.name} and version in {"", model.version}
        ),
        tuple(
            refused
            for refused in everything.refused
            # A model that is refused as a whole has no version.
            if name in {"", refused.name}
            and (not refused.version or version in {"", refused.version})
        ),
    )
    if not found.models and not found.refused:
        raise ConfigError(f"{str(path)!r} holds no model; {EXPECTED}")
    return found


def one_model(path: Path) -> ModelSource:
    """Return the model at `path`, its newest version where there are several.

    ConfigError: none or several models. ModelInvalid: it is refused, with the node's reason.
    """
    found = find_models(path)
    names = {model.name for model in found.models} | {refused.name for refused in found.refused}
    if len(names) > 1:
        raise ConfigError(
            f"{str(path)!r} holds {len(names)} models, of which this takes one: "
            f"{', '.join(sorted(names)[:20])}"
        )
    if not found.models:
        refused = found.refused[0]
        raise ModelInvalid(f"a node refuses {refused.name!r}: {refused.reason}")
    return max(found.models, key=lambda model: int(model.version))


def _place(path: Path) -> tuple[Path, str, str]:
    """Return the models folder around `path`, and the name and version to look for, "" for any."""
    if path.is_file():
        if path.suffix != ".onnx":
            raise ConfigError(f"{str(path)!r} is no .onnx file; {EXPECTED}")
        folder = path.parent
        if path.name == ONNX_FILE and folder.name.isdecimal():
            return folder.parent.parent, folder.parent.name, folder.name
        return path.parent, path.stem, "1"
    if path.name.isdecimal():
        return path.parent.parent, path.parent.name, path.name
    # A pipeline has a configuration and no version.
    is_model = any((path / name).is_file() for name in (MANIFEST_FILE, CONFIG_FILE)) or any(
        entry.name.isdecimal() and entry.is_dir() for entry in path.iterdir()
    )
    return (path.parent, path.name, "") if is_model else (path, "", "")
