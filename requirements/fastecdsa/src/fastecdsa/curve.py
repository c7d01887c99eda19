"""The curve that libp2p's secio names. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Curve:
    """The name of a curve, without its numbers."""

    name: str


P256: Final = Curve("P-256")
