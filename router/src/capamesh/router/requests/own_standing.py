"""The standing of this router itself in its network, as requests ask for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mypy_extensions import mypyc_attr


@mypyc_attr(native_class=False)
class OwnStanding(Protocol):
    """The standing of this router itself in its network."""

    __slots__ = ()

    @property
    def shut_out(self) -> str:
        """The reason why no node takes anything from this router any more; empty: they do."""
        ...


@dataclass(frozen=True, slots=True)
class GoodStanding:
    """The standing of a router that every node takes requests from."""

    shut_out: str = ""


GOOD_STANDING = GoodStanding()
