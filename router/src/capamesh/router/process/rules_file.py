"""Reads an operator's rules from their file. IO: the file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from capamesh.protocol.errors import ConfigError
from capamesh.router.rules import RoutingRules, read_rules


def load_rules(file: Path | None, policies: Collection[str]) -> RoutingRules:
    """Return the rules in `file`, None: those that hold without one; `policies` are those there are.

    Raises `ConfigError`, which names what is wrong with the file.
    """
    if file is None:
        return RoutingRules()
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the rules in {file} cannot be read: {exc}") from exc
    return read_rules(text, str(file), policies)
