"""What an operator may say about a model in `capamesh.toml`. Pure: bytes in, a value out.

`manifest.schema.json` beside this module says the same to editors.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import Final

from capamesh.node.repository.limits import (
    MAX_DESCRIPTION_CHARS,
    MAX_LINE_CHARS,
    MAX_MANIFEST_BYTES,
    MAX_PROVIDERS,
    MAX_QUEUE_LIMIT,
)
from capamesh.node.repository.rule_checks import rules_problem
from capamesh.node.repository.rule_tables import RULE_KEYS, read_rules
from capamesh.node.repository.rules import Rules
from capamesh.node.repository.toml_table import Table
from capamesh.protocol.errors import ModelInvalid

KEYS: Final = ("description", "providers", "allow_cpu_fallback", "max_queue", *RULE_KEYS)

_MAX_PROVIDER_CHARS: Final = 80  # guess: ONNX Runtime's longest is 28


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
    rules: Rules = field(default_factory=Rules)
    """How it is served."""


def parse_manifest(raw: bytes, file: str, model: str = "") -> Manifest:
    """Return the manifest in `raw`, TOML in UTF-8, of the model called `model`.

    Raises ModelInvalid, which names `file`: too large, a line too long, not TOML, an unknown key, a value of the wrong type
    or over its limit, rules that contradict each other, a pipeline that contains itself.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ModelInvalid(
            f"{file} has {len(raw)} bytes, at most {MAX_MANIFEST_BYTES} are allowed: shorten it"
        )
    top = Table(_toml(raw, file), KEYS, file)
    manifest = Manifest(
        description=top.text("description", MAX_DESCRIPTION_CHARS),
        providers=top.texts(
            "providers",
            _MAX_PROVIDER_CHARS,
            MAX_PROVIDERS,
            r"[A-Za-z0-9_]+ExecutionProvider",
            such_as="CUDAExecutionProvider",
        ),
        allow_cpu_fallback=top.flag("allow_cpu_fallback", default=False),
        max_queue=top.integer("max_queue", 1, MAX_QUEUE_LIMIT, None),
        rules=read_rules(top),
    )
    if problem := rules_problem(manifest.rules, model):
        raise ModelInvalid(f"{file}: {problem}")
    if manifest.rules.steps:
        for key in ("providers", "allow_cpu_fallback"):
            if key in top:
                raise top.refused(
                    key,
                    "a pipeline runs on no provider itself; say it in the manifests of its models",
                )
    return manifest


def _toml(raw: bytes, file: str) -> dict[str, object]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ModelInvalid(f"{file} is not TOML: {exc}") from exc
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > MAX_LINE_CHARS:
            raise ModelInvalid(
                f"{file}, line {number} has {len(line)} characters, at most {MAX_LINE_CHARS} are "
                "allowed: break it, or give a table lines of its own"
            )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # TOML errors are ValueErrors
        raise ModelInvalid(f"{file} is not TOML: {exc}") from exc
