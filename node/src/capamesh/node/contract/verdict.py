"""The verdict of the agent on a model whose runs ended workers, as its workers are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Verdict:
    """The restrictions of a worker on one model, from now on for some seconds."""

    name: str
    version: str
    digest: str
    """The digest of the files that are to blame; "" if it is not known."""
    reason: str
    """The reason, for people, with what to do."""
    held_s: float = 0.0
    """The model is not loaded for this long; 0 if it may be."""
    refused: Mapping[str, float] = field(default_factory=dict[str, float])
    """Requests that are not run, by their digest in hexadecimal, each with the seconds for which."""
    suspects: tuple[str, ...] = ()
    """Requests that were there at a death: whoever sees one end well says so."""
    refused_bytes: int = 0
    """Requests as large are not run for `refused_s`, then one at a time, until one ends well, which is told; 0: all are run."""
    refused_s: float = 0.0
    alone_s: float = 0.0
    """The requests of the model run one by one for this long."""
