"""The types of bodies that are read as JSON. Pure."""

from __future__ import annotations

from typing import Final

_FORM: Final = "application/x-www-form-urlencoded"
"""The type that curl's `-d` names by itself, and the examples of Triton and Ollama with it. A page's form cannot write JSON in it,
and its script says whose page it is."""
_JSON: Final = frozenset({"", "application/json", "application/octet-stream", _FORM})
"""A body of no type is any bytes (RFC 9110, section 8.3)."""


def is_json(content_type: str) -> bool:
    """Return whether a body of this `Content-Type`, empty where there is none, may be JSON.

    Types that a form of a stranger's page can have without a question to the router before it are not, but for `_FORM`.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in _JSON or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
