"""Reads a model's manifest, `capamesh.toml`, whose keys `manifest_keys` has. Pure: bytes in, a value out."""

from __future__ import annotations

from dataclasses import dataclass, field

from capamesh.node.repository.limits import MAX_MANIFEST_BYTES
from capamesh.node.repository.manifest_keys import ManifestTable
from capamesh.node.repository.rule_checks import rules_problem
from capamesh.node.repository.rules import Rules
from capamesh.node.repository.task_rules import TaskRules
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.schema import Mismatch
from capamesh.protocol.toml_text import read_toml


@dataclass(frozen=True, slots=True)
class Manifest:
    """An operator's settings for one model, the same for all its versions."""

    description: str = ""
    providers: tuple[str, ...] = ()
    """ONNX Runtime providers that may run it, best first; empty: what the device suggests."""
    allow_cpu_fallback: bool = False
    """True if it may run on the CPU where no wanted provider works."""
    max_queue: int | None = None
    """Requests that may wait for it; None: what the node's own setting says."""
    rules: Rules = field(default_factory=Rules)
    """The rules by which it is served."""
    task: TaskRules = field(default_factory=TaskRules)
    """The task that it is for."""


def parse_manifest(raw: bytes, file: str, model: str = "") -> Manifest:
    """Return the manifest in `raw`, TOML in UTF-8, of the model called `model`.

    Raises ModelInvalid, which names `file`: too large, not TOML, an unknown key, a value of the wrong type or over its
    limit, rules that contradict each other, a pipeline that contains itself.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ModelInvalid(
            f"{file} has {len(raw)} bytes, at most {MAX_MANIFEST_BYTES} are allowed: shorten it"
        )
    try:
        table = read_toml(raw, ManifestTable, file)
    except Mismatch as exc:
        raise ModelInvalid(str(exc)) from exc
    rules = table.rules()
    if problem := rules_problem(rules, model):
        raise ModelInvalid(f"{file}: {problem}")
    return Manifest(
        description=table.description,
        providers=table.providers or (),
        allow_cpu_fallback=bool(table.allow_cpu_fallback),
        max_queue=table.max_queue,
        rules=rules,
        task=table.task_rules(),
    )
