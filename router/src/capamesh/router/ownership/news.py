"""News of model ownership for the operator, each told once. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capamesh.router.ownership.descriptions import SHOWN_PEERS
from capamesh.router.ownership.pins import Why

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.ownership.version import Claim, OwnedVersion

MAX_NEWS = 32
"""Events kept to be logged; more in one turn are not told (guess)."""
MAX_REPORTED = 1024
"""Digests that were told to be ignored (guess: more are a flood)."""


@dataclass(frozen=True, slots=True)
class News:
    """One piece of news for the operator."""

    event: str
    model: ModelName
    version: ModelVersion
    fields: Mapping[str, object]


class OwnerNews:
    """The news since they were last taken, and those that were told lately."""

    def __init__(self) -> None:
        self._news: list[News] = []
        self._reported: OrderedDict[tuple[ModelName, ModelVersion, str], None] = OrderedDict()

    def take(self) -> list[News]:
        """Return what happened since the last call."""
        news, self._news = self._news, []
        return news

    def _tell(self, event: str, owned: OwnedVersion, **fields: object) -> None:
        if len(self._news) >= MAX_NEWS:
            return
        self._news.append(News(event, owned.model, owned.version, fields))

    def ignored(self, owned: OwnedVersion, claim: Claim) -> None:
        """Tell that a node hosts another file than the one that the version is served as."""
        if not self._is_new((owned.model, owned.version, claim.digest)):
            return
        self._tell(
            "model_digest_ignored",
            owned,
            peer=claim.peer,
            invite=claim.invite,
            digest=claim.digest,
            served=owned.digest,
            why=owned.why.value,
        )

    def moved(self, owned: OwnedVersion, before: str) -> None:
        """Tell that a version is served as another file than `before`; "": as none."""
        if before or owned.why is not Why.FIRST:
            self._tell(
                "model_digest_served",
                owned,
                digest=owned.digest,
                before=before,
                why=owned.why.value,
                publisher=owned.publisher,
            )
        for claim in owned.claims.values():
            if claim.digest != owned.digest:
                self.ignored(owned, claim)

    def trusted(self, owned: OwnedVersion) -> None:
        """Tell that a version is trusted from now on."""
        self._tell("model_version_trusted", owned, digest=owned.digest, why=owned.why.value)

    def on_trial(self, owned: OwnedVersion) -> None:
        """Tell that a version is hosted and not trusted."""
        if self._is_new((owned.model, owned.version, f"on trial {owned.digest}")):
            peers = [claim.peer for claim in owned.claims.values()][:SHOWN_PEERS]
            self._tell("model_version_on_trial", owned, digest=owned.digest, peers=peers)

    def _is_new(self, key: tuple[ModelName, ModelVersion, str]) -> bool:
        """Return whether this has not been told lately."""
        if key in self._reported:
            return False
        self._reported[key] = None
        if len(self._reported) > MAX_REPORTED:
            self._reported.popitem(last=False)
        return True
