"""What an operator may say about a model in `capamesh.toml`. Pure: bytes in, a value out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from capamesh.protocol.errors import ModelInvalid

MAX_MANIFEST_BYTES: Final = 16 * 1024  # guess: a hundred times what the keys need
MAX_DESCRIPTION_CHARS: Final = 1024  # guess: a paragraph
MAX_PROVIDERS: Final = 8  # guess: ONNX Runtime's builds carry two or three
MAX_QUEUE_LIMIT: Final = 1_000_000  # guess: far over what any deadline lets a queue hold

_PROVIDER: Final = re.compile(r"[A-Za-z0-9_]{1,64}ExecutionProvider")


@dataclass(frozen=True, slots=True)
class Manifest:
    """An operator's settings for one model, the same for all its versions."""

    description: str = ""
    providers: tuple[str, ...] = ()
    """ONNX Runtime providers that may run it, best first; empty: what the device suggests."""
    allow_cpu_fallback: bool = False
    """Whether it may run on the CPU where no wanted provider works."""
    max_queue: int | None = None
    """Requests that may wait for it; None: what the node's own setting says."""


def parse_manifest(raw: bytes, file: str) -> Manifest:
    """Return the manifest in `raw`, TOML in UTF-8; `file` is named in every complaint.

    Raises ModelInvalid: too large, not TOML, an unknown key, a value of the wrong type or over its limit.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ModelInvalid(
            f"{file} has {len(raw)} bytes, at most {MAX_MANIFEST_BYTES} are allowed: shorten it"
        )
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as exc:  # TOML and UTF-8 errors are ValueErrors
        raise ModelInvalid(f"{file} is not TOML: {exc}") from exc
    for key in table:
        if key not in _PARSERS:
            raise ModelInvalid(
                f"{file}: unknown key {key!r}; allowed keys are {', '.join(_PARSERS)}"
            )
    values = {key: _PARSERS[key](value, f"{file}: {key}") for key, value in table.items()}
    return Manifest(**values)  # type: ignore[arg-type]  # each parser returns its field's type


def _description(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_DESCRIPTION_CHARS:
        raise _wrong(where, value, f"a text of at most {MAX_DESCRIPTION_CHARS} characters")
    return value


def _providers(value: object, where: str) -> tuple[str, ...]:
    expected = f"a list of at most {MAX_PROVIDERS} names such as 'CUDAExecutionProvider'"
    if not isinstance(value, list):
        raise _wrong(where, value, expected)
    names = cast("list[object]", value)
    if len(names) > MAX_PROVIDERS:
        raise _wrong(where, names, expected)
    for name in names:
        if not isinstance(name, str) or not _PROVIDER.fullmatch(name):
            raise _wrong(where, name, expected)
    return tuple(cast("list[str]", names))


def _allow_cpu_fallback(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, value, "true or false")
    return value


def _max_queue(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_QUEUE_LIMIT:
        raise _wrong(where, value, f"a whole number from 1 to {MAX_QUEUE_LIMIT}")
    return value


def _wrong(where: str, value: object, expected: str) -> ModelInvalid:
    return ModelInvalid(f"{where} is {repr(value)[:80]}, expected {expected}")


_PARSERS: Final[dict[str, Callable[[object, str], object]]] = {
    "description": _description,
    "providers": _providers,
    "allow_cpu_fallback": _allow_cpu_fallback,
    "max_queue": _max_queue,
}
