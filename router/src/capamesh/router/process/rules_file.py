"""Reads an operator's rules from their file. IO: the file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from capamesh.protocol.private_files import read_public
from capamesh.router.process.rules_keys import read_rules
from capamesh.router.rules.model_rules import ModelRules, RoutingRules

MAX_RULES_BYTES: Final = 4 * 2**20  # 10,000 models of 400 bytes, which take 3 s (measured)


def load_rules(file: Path | None, policies: Collection[str], defaults: ModelRules) -> RoutingRules:
    """Return the rules in `file`, complete: `defaults` hold for what it says nothing about, and without a file.

    `policies` are those there are. Raises `ConfigError`, which names what is wrong with the file.
    """
    if file is None:
        return RoutingRules(defaults)
    raw = read_public(file, "the rules file", limit_bytes=MAX_RULES_BYTES)
    return read_rules(raw, str(file), policies, defaults)
