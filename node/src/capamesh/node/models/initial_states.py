"""Reads what the states of a model's sequences begin with. Reads files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from capamesh.node.repository.triton.sequence_batching import INITIAL_FOLDER
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource
    from capamesh.node.repository.rules import Rules, StateTensor


def with_initial_states(source: ModelSource) -> Rules:
    """Return the rules of `source` with the contents of the files that its states begin with.

    ModelInvalid: a file cannot be read, is not the one that the digest was taken from, or holds another number of bytes
    than its state has.
    """
    rules = source.manifest.rules
    if not any(state.initial_file for state in rules.sequence.states):
        return rules
    states = tuple(_read(source, state) for state in rules.sequence.states)
    return replace(rules, sequence=replace(rules.sequence, states=states))


def _read(source: ModelSource, state: StateTensor) -> StateTensor:
    if not state.initial_file:
        return state
    name = f"{INITIAL_FOLDER}/{state.initial_file}"
    try:
        return replace(state, initial=source.content.read(name))
    except KeyError as exc:
        raise ModelInvalid(f"{name!r} is not in the model's folder") from exc
    except OSError as exc:
        raise ModelInvalid(f"{name!r} cannot be read: {exc}") from exc
