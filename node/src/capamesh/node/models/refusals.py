"""Chooses the model versions of which an advert tells that the folder's scan refused them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from capamesh.protocol.adverts import MAX_NAME_CHARS, NO_VERSION
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.plain_text import plain

if TYPE_CHECKING:
    from capamesh.node.models.registry import Key
    from capamesh.node.repository import Refused

MAX_SHOWN: Final = 64
"""Model versions of which an advert tells that they are refused (guess: more is a folder of something else, and
with their reasons they must leave an advert room for the models that are served)."""
_ADVERTISABLE: Final = re.compile(r"[0-9]{1,20}")
"""The form of versions that an advert takes."""


def keys_of(refused: Refused, known: Collection[Key]) -> list[Key]:
    """Return the model versions that a refusal is of, as an advert can name them.

    A model that is refused as a whole stands for the versions that its folder has and those that are `known`;
    without any, and where a version has no name that an advert takes, for `NO_VERSION`.
    """
    name = _advertised_name(refused.name)
    if _ADVERTISABLE.fullmatch(refused.version):
        versions = [refused.version]
    elif refused.version:
        versions = [NO_VERSION]
    else:
        before = {version for model, version in known if model == name}
        versions = sorted({*before, *refused.versions} - {NO_VERSION}, key=int) or [NO_VERSION]
    return [(name, ModelVersion(version)) for version in versions]


def _advertised_name(name: str) -> ModelName:
    """Return a folder's or file's name as an advert takes it: it may be no model's name, nor even text."""
    return ModelName(plain(name.encode("utf-8", "replace").decode())[:MAX_NAME_CHARS] or "?")
