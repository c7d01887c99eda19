"""How many signatures are looked at to find one that a request fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from fleet_fakes import call, fp32, offer
from replicas import replica

from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.balancing.fitting import MOST_REPLICAS, fits, fits_another, usual_size_bytes
from capamesh.router.fleet.replica import Replica


def misfit(peer: str) -> Replica:
    """Return a replica that takes an input of another name."""
    made = replica(peer)
    (spec,) = made.offer.inputs
    made.offer = replace(made.offer, inputs=(TensorSpec("other", spec.datatype, spec.shape),))
    return made


def unknown(_: PeerId) -> str:
    """No invite is known."""
    return ""


@pytest.mark.parametrize("invite_of", [unknown, str])
@pytest.mark.parametrize(
    ("looked", "is_found"), [(MOST_REPLICAS - 1, True), (MOST_REPLICAS, False)]
)
def test_search_of_one_invite_or_of_others_ends_after_so_many_signatures(
    looked: int, is_found: bool, invite_of: Callable[[PeerId], str]
) -> None:
    replicas = [misfit(str(number)) for number in range(looked)]
    assert fits_another(call(), [*replicas, replica("a")], misfit("z"), invite_of) is is_found


def test_signatures_of_the_accused_s_invite_count_only_where_there_is_no_other() -> None:
    liars = [misfit(f"liar {number}") for number in range(64)]
    others = [misfit(f"other {number}") for number in range(64)]
    honest = replica("honest")

    def invite_of(peer: PeerId) -> str:
        return peer.partition(" ")[0]

    assert fits_another(call(), [*liars, *others, honest], liars[0], invite_of)
    assert not fits_another(call(), [*liars, replica("liar 64"), *others], liars[0], invite_of)
    assert fits_another(call(), [*liars[:3], replica("liar 64")], liars[0], invite_of)


@pytest.mark.parametrize(
    ("asked", "is_fit"),
    [
        (call(), True),
        (call("m", "", "y"), True),
        (call("m", "", "y", "z"), False),
        (call().replace(inputs=()), True),  # it may be one that the model needs not
        (call().replace(inputs=(fp32("x", [1, 2]), fp32("z", [1, 2]))), False),
        (call().replace(inputs=(fp32("x", [1, 2, 3]),)), False),
        (call().replace(inputs=(Tensor("x", Datatype.INT32, (1, 2), bytes(8)),)), False),
    ],
)
def test_call_fits_if_all_that_it_has_and_wants_is_the_model_s(
    asked: InferCall, is_fit: bool
) -> None:
    assert fits(asked, offer()) is is_fit


FP32, INT64 = Datatype.FP32, Datatype.INT64


@pytest.mark.parametrize(
    ("specs", "best_rows", "size_bytes"),
    [
        ([("x", FP32, (-1, 3))], 5, 4 * 3 * 5),
        ([("x", FP32, (-1, 3)), ("y", INT64, (-1, 2, 2))], 5, (4 * 3 + 8 * 4) * 5),
        ([("x", FP32, (-1,))], 5, 4 * 5),
        ([("x", FP32, (-1, 3))], 0, 0),  # the best batch is not known
        ([("x", FP32, (-1, 3)), ("y", FP32, (-1, -1))], 5, 0),
        ([("x", FP32, (-1, 3)), ("text", Datatype.BYTES, (-1, 1))], 5, 0),
        ([], 5, 0),
    ],
)
def test_usual_size_is_that_of_the_best_batch_where_that_is_known(
    specs: list[tuple[str, Datatype, tuple[int, ...]]], best_rows: int, size_bytes: int
) -> None:
    inputs = tuple(TensorSpec(*spec) for spec in specs)
    assert usual_size_bytes(replace(offer(), inputs=inputs, best_rows=best_rows)) == size_bytes
