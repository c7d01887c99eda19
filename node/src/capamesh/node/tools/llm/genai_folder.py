"""Takes over a folder that onnxruntime-genai's model builder wrote, as it is. Copies or links files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final, cast

from capamesh.node.repository.triton.config_pbtxt import ONNX_FILE
from capamesh.node.runtime.decoders.decoder_folder import CONFIG_FILE, read_decoder_folder
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.schema import json_value

MAX_FILES: Final = 1000  # guess: such folders have some 12


def take_over(source: Path, folder: Path, *, is_linked: bool) -> None:
    """Put all files of `source` into `folder`, which is there and empty: as copies, or with `is_linked` as hard links.

    The decoder is called as a node expects it, whatever it was called. Raises ModelInvalid: as `read_decoder_folder`.
    ConfigError: too many files, or one cannot be linked. OSError: one cannot be copied.
    """
    found = read_decoder_folder(source)
    files = sorted(path for path in source.iterdir() if path.is_file())
    if len(files) > MAX_FILES:
        raise ConfigError(
            f"{source} has {len(files)} files; at most {MAX_FILES} are taken over: keep only the model's own there"
        )
    old = found.config.onnx_file
    for path in files:
        name = ONNX_FILE if path.name == old else path.name
        if is_linked and path.name != CONFIG_FILE:
            _link(path, folder / name)
        else:
            shutil.copyfile(path, folder / name)
    if old != ONNX_FILE:
        config = cast("dict[str, Any]", json_value((source / CONFIG_FILE).read_bytes()))
        config["model"]["decoder"]["filename"] = ONNX_FILE
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _link(path: Path, target: Path) -> None:
    try:
        # Folders of a cache of Hugging Face are full of links.
        os.link(path.resolve(), target)
    except OSError as exc:
        raise ConfigError(
            f"{path} cannot be linked to {target}: {exc.strerror}; leave --link out, so that it is copied"
        ) from exc
