"""What the agent decides about a model whose runs ended workers, as its workers are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a worker shall not do with one model, from now on for some seconds."""

    name: str
    version: str
    digest: str
    """Of the files that are to blame; "" where it is not known."""
    reason: str
    """For people, with what to do."""
    held_s: float = 0.0
    """It is not loaded before; 0: it may be."""
    refused: Mapping[str, float] = field(default_factory=dict[str, float])
    """Requests that are not run, by their digest in hexadecimal, each with the seconds for which."""
    suspects: tuple[str, ...] = ()
    """Requests that were there at a death: whoever sees one end well says so."""
    large_bytes: int = 0
    """Requests of inputs of so many bytes or more are not run; 0: all may be."""
    large_s: float = 0.0
    alone_s: float = 0.0
    """Its requests run one by one."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Verdict:
        """Return what `dataclasses.asdict` made of one and a message carried."""
        given: dict[str, Any] = {**fields, "suspects": tuple(fields["suspects"])}
        return cls(**given)
