"""Reads an input from an array that numpy saved, and converts it to the model's dtype when asked. File IO."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from capamesh.client import Tensor, TensorSpec
from capamesh.client.casting import cast_array
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Datatype

ARRAY_SUFFIXES: Final = frozenset({".npy", ".npz"})


def tensor_from_file(spec: TensorSpec, path: Path, *, is_cast: bool) -> Tensor:
    """Return the array in a .npy or .npz file as a tensor of `spec`.

    Of an archive, it is the array named as the input, or the only one. `is_cast` converts numbers to the
    model's dtype; an integer that does not fit, a fraction for an integer and a finite number that would
    become infinite are refused. `InvalidRequest`: that, no such array, another dtype or shape than the
    model's. `OSError`: the file cannot be opened.
    """
    array: npt.NDArray[Any] | np.generic = _load(spec, path)
    if is_cast:
        array = cast_array(array, spec.datatype, str(path))
    wanted = Datatype.BF16 if spec.datatype is Datatype.BF16 else None
    tensor = Tensor.from_numpy(spec.name, array, wanted)
    reason = spec.accepts(tensor.datatype, tensor.shape)
    if reason is None:
        return tensor
    kinds = {tensor.datatype, spec.datatype}
    if len(kinds) == 2 and Datatype.BYTES not in kinds:
        dtype = spec.datatype.numpy_dtype.name
        reason += f"; convert it with array.astype(np.{dtype}), or here with --cast"
    raise InvalidRequest(f"{path}: {reason}")


def _load(spec: TensorSpec, path: Path) -> npt.NDArray[Any]:
    try:
        # Pickled objects run code when they are loaded.
        loaded = cast("object", np.load(path, allow_pickle=False))
        if isinstance(loaded, np.ndarray):
            return cast("npt.NDArray[Any]", loaded)
        with cast("np.lib.npyio.NpzFile", loaded) as archive:
            return archive[_array_name(spec, path, archive.files)]
    except (ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise InvalidRequest(f"{path} is no array that can be read: {_why(exc)}") from exc


def _array_name(spec: TensorSpec, path: Path, names: list[str]) -> str:
    if spec.name in names:
        return spec.name
    if len(names) != 1:
        raise InvalidRequest(
            f"{path} has {len(names)} arrays and none is named {spec.name!r}: {', '.join(names) or 'none'}; "
            f"save one as numpy.savez(FILE, {spec.name}=array)"
        )
    return names[0]


def _why(error: Exception) -> str:
    # numpy's own text advises to unpickle it, which runs what is in there
    if "pickle" in str(error):
        return (
            "it holds Python objects (dtype object), which are never loaded, or was not written by "
            "numpy.save; save numbers, or text as array.astype(str)"
        )
    return str(error)
