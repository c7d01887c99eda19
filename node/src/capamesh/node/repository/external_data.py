"""Restricts the other files that a model may name to those below its own folder. Pure.

Tensors may keep their bytes in a file that the model names (`TensorProto.external_data`), so a model can name any path.
ONNX Runtime itself refuses paths that leave the model's folder (since 1.31, tested); `checked_location` says so before
anything is loaded.
"""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from capamesh.protocol.errors import ModelInvalid


def checked_location(location: str) -> PurePosixPath:
    """Return `location` as a path relative to the model's folder.

    Raises ModelInvalid where it is empty, absolute (on any system) or climbs with `..`.
    """
    path = PurePosixPath(location)
    windows = PureWindowsPath(location)
    if not location or "\0" in location:
        raise ModelInvalid(f"external data location {location!r} is no path")
    if path.is_absolute() or windows.drive or windows.root:
        raise ModelInvalid(
            f"external data location {location!r} is absolute; export the model with its weights "
            "beside it"
        )
    if ".." in path.parts or ".." in windows.parts:
        raise ModelInvalid(
            f"external data location {location!r} leaves the model's folder; export the model with "
            "its weights beside it"
        )
    return path
