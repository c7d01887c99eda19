"""The people for whom an address of a router is: what is served there goes by what a key would have to be allowed. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto
from typing import Final

from capamesh.protocol.errors import Forbidden
from capamesh.router.access.keys import Verb

_OF_CLIENTS: Final = frozenset({Verb.INFER, Verb.JOBS})


class Audience(Enum):
    """The ones for whom an address is."""

    ALL = auto()
    """The whole world: the router has one address."""
    CLIENTS = auto()
    """The ones who run models: what only reads the network, its metrics, or commands the router is not served."""
    OPERATORS = auto()
    """The ones who look after the network: what only runs models is not served."""

    def is_served(self, verbs: Collection[Verb]) -> bool:
        """Return whether a route, or a method, is served that takes a key with one of the `verbs`; none: it takes all, and no key."""
        if self is Audience.ALL or not verbs:
            return True
        if self is Audience.CLIENTS:
            return not _OF_CLIENTS.isdisjoint(verbs)
        return not _OF_CLIENTS.issuperset(verbs)

    def refusal(self) -> Forbidden:
        """Return what to tell those who ask for what is not served here."""
        if self is Audience.OPERATORS:
            return Forbidden("models are run at the router's other address alone, that of --http")
        return Forbidden(
            "this is served at the router's other address alone, that of --metrics-listen"
        )
