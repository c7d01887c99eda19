"""How many signatures are looked at to find one that a request fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_fakes import call
from replicas import replica

from capamesh.protocol.tensors import TensorSpec
from capamesh.router.balancing.fitting import MOST_REPLICAS, fits_another
from capamesh.router.fleet.replica import Replica


def misfit(peer: str) -> Replica:
    """Return a replica that takes an input of another name."""
    made = replica(peer)
    (spec,) = made.offer.inputs
    made.offer = replace(made.offer, inputs=(TensorSpec("other", spec.datatype, spec.shape),))
    return made


def test_replicas_other_than_the_named_one_are_asked() -> None:
    fitting, other = replica("a"), misfit("b")
    assert fits_another(call(), [other, fitting], but=other)
    assert not fits_another(call(), [other, fitting], but=fitting)


@pytest.mark.parametrize(
    ("looked", "is_found"), [(MOST_REPLICAS - 1, True), (MOST_REPLICAS, False)]
)
def test_search_ends_after_so_many_signatures(looked: int, is_found: bool) -> None:
    replicas = [misfit(str(number)) for number in range(looked)]
    assert fits_another(call(), [*replicas, replica("a")], but=misfit("z")) is is_found
