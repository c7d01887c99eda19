"""The names that people give to nodes and routers: their alphabet, a name made of a host's, how they are shown. Pure.

A name is no identity: any member may call itself as another does. A member is known by its peer id, and where a name
alone would not tell two members apart, the end of the peer id stands behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.ids import PeerId

MAX_MEMBER_NAME_CHARS: Final = 63
"""The longest name: as long as a label of a host's name (RFC 1035, section 2.3.4)."""
MEMBER_NAME_PATTERN: Final = r"\A(?:[A-Za-z0-9][A-Za-z0-9._-]{0,62})?\Z"
"""Matches a name, and the empty text of a member that has none."""
SUFFIX_CHARS: Final = 8
"""The characters of a peer id's end that are shown (guess: no two of 100,000 members share them)."""

_NAME: Final = re.compile(MEMBER_NAME_PATTERN)
_OTHERS: Final = re.compile(r"[^A-Za-z0-9._-]+")


def checked_name(text: str) -> str:
    """Return `text`, the name that a person gave; raise `ConfigError` when it is none."""
    if not text or _NAME.match(text) is None:
        raise ConfigError(
            f"the name {text[:80]!r} is none: it takes 1 to {MAX_MEMBER_NAME_CHARS} of the characters A-Z a-z 0-9 . _ - and"
            " begins with a letter or a digit; give another --name"
        )
    return text


def name_of_host(host: str) -> str:
    """Return the name of a member on a machine called `host`, with "-" for what no name may have; "" if nothing is left."""
    return _OTHERS.sub("-", host).lstrip("._-")[:MAX_MEMBER_NAME_CHARS].rstrip("-")


def shown_names(names: Mapping[PeerId, str]) -> dict[PeerId, str]:
    """Return what people are shown of each member: its name, with the end of its peer id where others have the same."""
    counts = Counter(names.values())
    return {
        peer: name if counts[name] == 1 else f"{name}…{peer[-SUFFIX_CHARS:]}"
        for peer, name in names.items()
        if name
    }
