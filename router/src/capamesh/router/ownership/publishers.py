"""Finds the accepted publisher that signed what a node offers, and verifies each signature once. Pure.

Verifying costs 0.1 ms. A node whose advert has a signature that is not good may be lying in all of them, so no other new
one of that advert is verified: a flood of bad ones costs one verification an advert.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.publishing import SIGNED_BYTES, is_signed, publisher_of

if TYPE_CHECKING:
    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.protocol.ids import ModelName

MAX_REMEMBERED = 16_384
"""The most signatures that are remembered: as many as there are pins, at 300 bytes each."""


class Publishers:
    """Verifies signatures and remembers which were good."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str, bytes], bool] = OrderedDict()

    @override
    def __repr__(self) -> str:
        return f"Publishers({len(self._known)} signatures remembered)"

    def signers(
        self, advert: NodeAdvert, accepted_of: Callable[[ModelName], Collection[str]]
    ) -> dict[int, str]:
        """Return, by the offer's place in the advert, which publisher that is accepted for the model has signed it."""
        found: dict[int, str] = {}
        is_doubtful = False
        for at, offer in enumerate(advert.models):
            for signed in (offer.signed, *offer.also_signed):
                if len(signed) != SIGNED_BYTES:
                    continue
                publisher = publisher_of(signed)
                if publisher not in accepted_of(offer.name):
                    continue
                key = (offer.name, offer.version, offer.digest, signed)
                is_good = self._known.get(key)
                if is_good is None:
                    if is_doubtful:
                        continue
                    is_good = self._verify(key)
                self._known.move_to_end(key)
                is_doubtful |= not is_good
                if is_good:
                    found[at] = publisher
                    break
        return found

    def _verify(self, key: tuple[str, str, str, bytes]) -> bool:
        model, version, digest, signed = key
        is_good = self._known[key] = is_signed(signed, model, version, digest)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return is_good
