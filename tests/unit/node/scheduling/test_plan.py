from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.repository.rules import RaggedInput, StateTensor
from capamesh.node.scheduling import BatchPlan, PendingRequest
from capamesh.protocol.errors import InvalidRequest, RunFailed, TooLarge
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, checked, join_elements

F32 = Datatype.FP32


def request(*inputs: Tensor, outputs: tuple[str, ...] = ()) -> PendingRequest:
    return PendingRequest(inputs, outputs, pytest.fail, arrived_s=0.0)


def tensor(name: str, values: Any, dtype: Any = np.float32) -> Tensor:
    return Tensor.from_numpy(name, np.array(values, dtype))


def ids(row: list[int], *more: Tensor) -> PendingRequest:
    return request(tensor("ids", [row], np.int64), *more)


def values(of: Tensor) -> Any:
    return of.to_numpy().tolist()


def prepared(plan: BatchPlan, *requests: PendingRequest) -> list[PendingRequest]:
    for one in requests:
        plan.prepare(one)
    return list(requests)


PLAIN = BatchPlan(
    (TensorSpec("x", F32, (-1, 2)),),
    (TensorSpec("y", F32, (-1, 2)),),
    is_batching=True,
    batch_rows=8,
)
TEXT = (
    TensorSpec("ids", Datatype.INT64, (-1, -1)),
    TensorSpec("mask", Datatype.INT64, (-1, -1)),
)


def ragged(
    *, buckets: tuple[int, ...] = (), mask: str = "", outputs: tuple[str, ...] = ("y",)
) -> BatchPlan:
    return BatchPlan(
        TEXT if mask else TEXT[:1],
        (TensorSpec("y", Datatype.INT64, (-1, -1)),),
        is_batching=True,
        batch_rows=8,
        ragged=(RaggedInput("ids", 1, -7.0, buckets, mask, outputs),),
    )


def stateful(axis: int = 0) -> BatchPlan:
    shape = (-1, 2) if axis == 0 else (2, -1)
    return BatchPlan(
        (TensorSpec("x", F32, (-1, 1)), TensorSpec("s", F32, shape)),
        (TensorSpec("y", F32, (-1, 1)), TensorSpec("s_next", F32, shape)),
        is_batching=True,
        batch_rows=8,
        states=(StateTensor("s", "s_next", axis),),
    )


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_outputs_that_are_not_by_rows_cannot_be_divided(shape: tuple[int, ...]) -> None:
    requests = prepared(PLAIN, *(request(tensor("x", [[1, 2]] * rows)) for rows in (1, 2)))
    output = Tensor.from_numpy("y", np.zeros(shape, np.float32))
    with pytest.raises(RunFailed, match="3 rows were run together"):
        PLAIN.split(requests, [output], PLAIN.join(requests))


def test_inputs_of_different_numbers_of_rows_are_refused() -> None:
    specs = tuple(TensorSpec(name, F32, (-1,)) for name in "ab")
    plan = BatchPlan(specs, (), is_batching=True)
    with pytest.raises(InvalidRequest, match=r"'b' has 3 rows \(axis 0\), .* have 2"):
        plan.prepare(request(tensor("a", [1, 2]), tensor("b", [1, 2, 3])))


def test_more_rows_than_may_be_are_refused_with_both_numbers() -> None:
    plan = BatchPlan(PLAIN.inputs, PLAIN.outputs, is_batching=True, batch_rows=2, max_rows=2)
    plan.prepare(request(tensor("x", [[1, 2]] * 2)))
    with pytest.raises(TooLarge, match="3 rows; this model takes 2 at once"):
        plan.prepare(request(tensor("x", [[1, 2]] * 3)))


def test_shared_inputs_must_be_equal_bit_for_bit_and_are_given_once() -> None:
    specs = (TensorSpec("x", F32, (-1, 1)), TensorSpec("rate", Datatype.INT64, ()))
    plan = BatchPlan(specs, (), is_batching=True, shared=frozenset({"rate"}))
    asked = [
        request(tensor("x", [[value]]), tensor("rate", rate, np.int64))
        for value, rate in ((1, 16_000), (2, 16_000), (3, 8_000))
    ]
    requests = prepared(plan, *asked)
    assert requests[0].key == requests[1].key != requests[2].key
    joined = plan.join(requests[:2])
    assert values(joined[0]) == [[1], [2]]
    assert (joined[1].shape, values(joined[1])) == ((), 16_000)


def test_lengths_are_padded_to_their_bucket_and_share_a_batch_within_it_alone() -> None:
    plan = ragged(buckets=(2, 4))
    lengths = (1, 2, 3, 4, 5, 9)
    requests = prepared(plan, *(ids([1] * length) for length in lengths))
    keys = [one.key for one in requests]
    assert keys[0] == keys[1] != keys[2] == keys[3] != keys[4] == keys[5]
    assert plan.join(requests[:1])[0].shape == (1, 2)
    assert plan.join(requests[2:3])[0].shape == (1, 4)
    assert plan.join(requests[4:])[0].shape == (2, 9)  # over all buckets: the longest decides
    (share,) = plan.split(requests[:1], [tensor("y", [[8, 9]], np.int64)], plan.join(requests[:1]))
    assert values(share[0]) == [[8]]


@pytest.mark.parametrize("mask", [[[1, 1]], [1]])
def test_mask_of_another_length_than_its_input_is_refused(mask: Any) -> None:
    plan = ragged(mask="mask")
    with pytest.raises(InvalidRequest, match="must have the length 3"):
        plan.prepare(ids([5, 6, 7], tensor("mask", mask, np.int64)))


def test_bfloat16_is_padded_with_the_number_and_not_with_its_bits() -> None:
    padded = (RaggedInput("x", pad=-1.0, buckets=(2,)),)
    specs = (TensorSpec("x", Datatype.BF16, (-1, -1)),)
    plan = BatchPlan(specs, (), is_batching=True, ragged=padded)
    one = request(Tensor("x", Datatype.BF16, (1, 1), b"\x80\x3f"))
    plan.prepare(one)
    assert bytes(plan.join([one])[0].data) == b"\x80\x3f\x80\xbf"


def test_output_that_has_not_the_padded_length_cannot_be_cut_back() -> None:
    plan = ragged()
    requests = prepared(plan, ids([1, 2, 3]), ids([4]))
    pooled = tensor("y", [[1, 2], [3, 4]], np.int64)
    with pytest.raises(RunFailed, match="has not the padded length 3"):
        plan.split(requests, [pooled], plan.join(requests))


def test_state_is_the_nodes_own_zero_at_first_and_neither_given_nor_asked_for() -> None:
    plan = stateful(axis=1)
    assert [spec.name for spec in plan.public_inputs] == ["x"]
    assert [spec.name for spec in plan.public_outputs] == ["y"]
    x = tensor("x", [[1]])
    assert plan.completed((x,)) == (x, Tensor("s", F32, (2, 1), bytes(8)))
    with pytest.raises(InvalidRequest, match="'s' is the sequence's state"):
        plan.completed((x, tensor("s", [[0], [0]])))
    with pytest.raises(InvalidRequest, match="'s_next' is the sequence's state"):
        plan.prepare(request(*plan.completed((x,)), outputs=("y", "s_next")))


# every datatype, any shape: an identity model gives each request its own data back, bit for bit


@dataclass(frozen=True)
class Kind:
    """How one input of a generated model behaves."""

    datatype: Datatype
    rest: tuple[int, ...]
    role: str
    buckets: tuple[int, ...]


@st.composite
def kinds(draw: st.DrawFn, role: str) -> Kind:
    choices = [one for one in Datatype if one is not Datatype.BYTES or role in {"plain", "shared"}]
    least = 1 if role in {"ragged", "masked", "state1"} else 0
    rest = tuple(draw(st.lists(st.integers(0, 3), min_size=least, max_size=2)))
    buckets = draw(st.sampled_from([(), (1,), (2, 4), (3,)]))
    return Kind(draw(st.sampled_from(choices)), rest, role, buckets)


def spec_of(name: str, kind: Kind) -> TensorSpec:
    match kind.role:
        case "shared":
            shape = (*kind.rest,)
        case "ragged" | "masked":
            shape = (-1, -1, *kind.rest[1:])
        case "state1":
            shape = (kind.rest[0], -1, *kind.rest[1:])
        case _:
            shape = (-1, *kind.rest)
    return TensorSpec(name, kind.datatype, shape)


def plan_of(chosen: Sequence[Kind]) -> BatchPlan:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    rules: list[RaggedInput] = []
    states: list[StateTensor] = []
    for at, kind in enumerate(chosen):
        name, out = f"i{at}", f"o{at}"
        inputs.append(spec_of(name, kind))
        if kind.role != "shared":
            outputs.append(TensorSpec(out, kind.datatype, inputs[-1].shape))
        if kind.role in {"ragged", "masked"}:
            mask = f"m{at}" if kind.role == "masked" else ""
            rules.append(RaggedInput(name, 1, 1.0, kind.buckets, mask, (out,)))
            if mask:
                inputs.append(TensorSpec(mask, Datatype.UINT8, (-1, -1)))
        if kind.role.startswith("state"):
            states.append(StateTensor(name, out, int(kind.role[-1])))
    return BatchPlan(
        tuple(inputs),
        tuple(outputs),
        is_batching=True,
        batch_rows=8,
        shared=frozenset(f"i{at}" for at, kind in enumerate(chosen) if kind.role == "shared"),
        ragged=tuple(rules),
        states=tuple(states),
    )


def random_tensor(
    name: str, datatype: Datatype, shape: tuple[int, ...], random: np.random.Generator
) -> Tensor:
    count = int(np.prod(shape, dtype=np.int64))
    if datatype.itemsize_bytes is None:
        data = join_elements([random.bytes(int(random.integers(0, 5))) for _ in range(count)])
    elif datatype is Datatype.BOOL:
        data = random.integers(0, 2, count, np.uint8).tobytes()
    else:
        data = random.bytes(count * datatype.itemsize_bytes)
    return checked(Tensor(name, datatype, shape, data))


@st.composite
def models(draw: st.DrawFn) -> tuple[BatchPlan, list[PendingRequest], list[tuple[Tensor, ...]]]:
    is_stateful = draw(st.booleans())
    roles = ["plain", "shared", "ragged", "masked"] + ["state0", "state1"] * is_stateful
    chosen = [draw(kinds("plain"))]
    chosen += [draw(kinds(role)) for role in draw(st.lists(st.sampled_from(roles), max_size=3))]
    plan = plan_of(chosen)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shared = {
        at: random_tensor(f"i{at}", kind.datatype, kind.rest, random)
        for at, kind in enumerate(chosen)
        if kind.role == "shared"
    }
    requests: list[PendingRequest] = []
    given_inputs: list[tuple[Tensor, ...]] = []
    numbers = st.just(1) if plan.states else st.integers(0, 3)
    for rows in draw(st.lists(numbers, min_size=1, max_size=5)):
        inputs: list[Tensor] = []
        for at, kind in enumerate(chosen):
            match kind.role:
                case "ragged" | "masked":
                    shape = (rows, draw(st.integers(0, 5)), *kind.rest[1:])
                case "state1":
                    shape = (kind.rest[0], rows, *kind.rest[1:])
                case _:
                    shape = (rows, *kind.rest)
            made = shared.get(at) or random_tensor(f"i{at}", kind.datatype, shape, random)
            inputs.append(made)
        states = {state.input for state in plan.states}
        public = tuple(one for one in inputs if one.name not in states)
        completed = plan.completed(public)
        own = {one.name: one for one in (*completed, *inputs)}  # a state that is not zero any more
        requests.append(request(*own.values()))
        given_inputs.append(tuple(inputs))
    return plan, requests, given_inputs


def identity(plan: BatchPlan, joined: Sequence[Tensor]) -> list[Tensor]:
    by_name = {one.name: one for one in joined}
    return [by_name[f"i{spec.name[1:]}"].replace(name=spec.name) for spec in plan.outputs]


@given(models())
def test_identity_model_gives_every_request_its_own_data_back_bit_for_bit(
    model: tuple[BatchPlan, list[PendingRequest], list[tuple[Tensor, ...]]],
) -> None:
    plan, requests, inputs = model
    groups: dict[object, list[int]] = {}
    for at, one in enumerate(requests):
        plan.prepare(one)
        groups.setdefault(one.key, []).append(at)
    for members in groups.values():
        together = [requests[at] for at in members]
        joined = plan.join(together)
        for whole, spec in zip(joined, plan.inputs, strict=True):
            checked(whole)
            assert spec.accepts(whole.datatype, whole.shape) is None
        by_name = {whole.name: whole for whole in joined}
        for rule in plan.ragged:
            if rule.mask:
                mask = by_name[rule.mask]
                assert mask.shape == by_name[rule.name].shape[:2]
                given_inputs = [
                    one for at in members for one in inputs[at] if one.name == rule.name
                ]
                lengths = [one.shape[1] for one in given_inputs for _ in range(one.shape[0])]
                assert mask.to_numpy().sum(1).tolist() == lengths
        shares = plan.split(together, identity(plan, joined), joined)
        for at, share in zip(members, shares, strict=True):
            own = {f"o{one.name[1:]}": one for one in inputs[at]}
            for out in share:
                expected = own[out.name]
                assert (out.shape, out.datatype) == (expected.shape, expected.datatype)
                assert bytes(out.data) == bytes(expected.data)
