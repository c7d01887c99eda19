"""The key of a kept answer: equal for what a node would get the same of, and for nothing else."""

from __future__ import annotations

import pytest
from fleet_fakes import fp32

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.oip import decode_request
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.cache.key import MAX_BEGUN, Keys, input_bytes
from capamesh.router.rules.constraints import ANYWHERE, Constraints

CALL = InferCall(ModelName("m"), ModelVersion(""), (fp32("a", [1, 2]), fp32("b", [3, 4])), ("y",))
ROW = Tensor("a", Datatype.FP32, (1, 2), b"01234567")


def key(call: InferCall = CALL, tenant: str = "lab", constraints: Constraints = ANYWHERE) -> bytes:
    return Keys().of(call, "d", "1", tenant, constraints)


def test_equal_requests_have_one_key_whatever_they_ask_of_their_way() -> None:
    assert len(key()) == 32
    assert key(CALL.replace(inputs=CALL.inputs[::-1])) == key()
    assert key(CALL.replace(priority=1, is_bulk=True, takes_parts=True)) == key()
    assert key(CALL.replace(version=ModelVersion("1"))) == key()
    assert key(CALL.replace(sequence=SequenceMark(1, True, True))) == key()
    views = tuple(
        Tensor(each.name, each.datatype, each.shape, memoryview(bytes(each.data)))
        for each in CALL.inputs
    )
    assert key(CALL.replace(inputs=views)) == key()


def test_json_and_binary_tensors_that_are_equal_have_one_key() -> None:
    json = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.5,-0.1]}]}'
    head = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],'
        b'"parameters":{"binary_data_size":8}}]}'
    )
    raw = fp32("x", [1.5, -0.1]).data
    keys = {
        key(InferCall(ModelName("m"), ModelVersion(""), asked.inputs))
        for asked in (
            decode_request("m", "", json, None),
            decode_request("m", "", head + bytes(raw), len(head)),
        )
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    "other",
    [
        CALL.replace(model=ModelName("n")),
        CALL.replace(outputs=()),
        CALL.replace(outputs=("y", "z")),
        CALL.replace(classes=(3,)),
        CALL.replace(inputs=CALL.inputs[:1]),
        CALL.replace(inputs=(fp32("a", [1, 2]), fp32("b", [3, 5]))),
        CALL.replace(inputs=(fp32("a", [3, 4]), fp32("b", [1, 2]))),
        CALL.replace(inputs=(fp32("a", [1, 2]), fp32("c", [3, 4]))),
        CALL.replace(inputs=(ROW,)),
    ],
)
def test_any_difference_that_a_node_would_see_is_another_key(other: InferCall) -> None:
    assert key(other) != key()


def test_bytes_do_not_move_from_one_input_to_the_next() -> None:
    def texts(first: bytes, second: bytes) -> bytes:
        return key(
            CALL.replace(
                inputs=(
                    Tensor("a", Datatype.UINT8, (len(first),), first),
                    Tensor("b", Datatype.UINT8, (len(second),), second),
                )
            )
        )

    assert texts(b"ab", b"c") != texts(b"a", b"bc")
    assert texts(b"", b"abc") != texts(b"abc", b"")


def test_shape_and_type_of_equal_bytes_are_part_of_it() -> None:
    alike = [
        Tensor("a", datatype, shape, ROW.data)
        for datatype in (Datatype.FP32, Datatype.INT32)
        for shape in ((1, 2), (2, 1), (2,))
    ]
    assert len({key(CALL.replace(inputs=(each,))) for each in alike}) == len(alike)


def test_tenant_file_version_and_constraints_are_part_of_it() -> None:
    others = [
        Keys().of(CALL, "e", "1", "lab", ANYWHERE),
        Keys().of(CALL, "d", "2", "lab", ANYWHERE),
        Keys().of(CALL, "d", "1", "", ANYWHERE),
        Keys().of(CALL, "d", "1", "LAB", ANYWHERE),
        key(constraints=Constraints(max_price=2.0)),
        key(constraints=Constraints(regions=frozenset({"eu"}))),
        key(constraints=Constraints(device_kinds=frozenset({"eu"}))),
        key(constraints=Constraints(regions=frozenset())),
        key(constraints=Constraints(peers=frozenset({PeerId("A")}))),
        key(constraints=Constraints(not_at=frozenset({PeerId("A")}))),
    ]
    assert len({key(), *others}) == len(others) + 1
    both = frozenset({"eu", "us", "asia", "africa"})
    assert key(constraints=Constraints(regions=both)) == key(
        constraints=Constraints(regions=frozenset(sorted(both)))
    )


def test_names_that_look_like_descriptions_are_told_apart() -> None:
    one = CALL.replace(outputs=("y', 'z",))
    two = CALL.replace(outputs=("y", "z"))
    assert key(one) != key(two)
    assert key(tenant="lab', 'x") != key(tenant="lab")
    assert len(key(tenant="\ud800")) == 32


def test_inputs_are_measured_without_being_read() -> None:
    assert input_bytes(CALL) == 16
    assert input_bytes(CALL.replace(inputs=())) == 0


def test_key_does_not_hang_on_what_was_asked_before() -> None:
    keys = Keys()
    for at in range(MAX_BEGUN + 10):
        rows = CALL.replace(inputs=(fp32("a", *[[1, 2]] * (at % 7)),), outputs=(str(at),))
        assert keys.of(rows, "d", "1", "lab", ANYWHERE) == key(rows)
    assert len(keys._begun) <= MAX_BEGUN
