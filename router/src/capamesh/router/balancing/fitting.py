"""Compares a request with the model's signature, as far as the router can see. Pure.

It is used only when something went wrong. Where a node says that a request is wrong and the router sees that for itself,
no other node is asked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from capamesh.protocol.tensor_spec import ANY_DIM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.links.calls import InferCall
    from capamesh.router.fleet.replica import Replica

MOST_REPLICAS = 8
"""The most replicas whose signatures are looked at, each of another invite, or all of one (guess: they are alike but for a node that lies)."""


def fits(call: InferCall, offer: ModelOffer) -> bool:
    """Return whether every input of the call, by name, datatype and shape, is one that the model takes.

    An input that the call lacks may be one that it needs not.
    """
    specs = {spec.name: spec for spec in offer.inputs}
    for tensor in call.inputs:
        spec = specs.get(tensor.name)
        if spec is None or spec.accepts(tensor.datatype, tensor.shape) is not None:
            return False
    outputs = {spec.name for spec in offer.outputs}
    return outputs.issuperset(call.outputs)


def usual_size_bytes(offer: ModelOffer) -> int:
    """Return the bytes of the inputs of the model's best batch, 0 where that cannot be known.

    It is not known of texts, nor where another size than the number of rows is left to the caller.
    """
    total = 0
    for spec in offer.inputs:
        itemsize = spec.datatype.itemsize_bytes
        if itemsize is None or ANY_DIM in spec.shape[1:]:
            return 0
        total += itemsize * math.prod(spec.shape[1:])
    return total * offer.best_rows


def fits_another(
    call: InferCall, replicas: Iterable[Replica], but: Replica, invite_of: Callable[[PeerId], str]
) -> bool:
    """Return whether the call fits what some of `replicas`, another than `but`, say that they take.

    One of each other invite is asked; where there is none, others of its own.
    """
    mine = invite_of(but.endpoint.peer)
    of_mine: list[Replica] = []
    looked: set[str] = set()
    for replica in replicas:
        invite = invite_of(replica.endpoint.peer)
        if invite in {"", mine}:
            if replica is not but and len(of_mine) < MOST_REPLICAS:
                of_mine.append(replica)
        elif invite not in looked:
            if fits(call, replica.offer):
                return True
            looked.add(invite)
            if len(looked) == MOST_REPLICAS:
                return False
    return not looked and any(fits(call, replica.offer) for replica in of_mine)
