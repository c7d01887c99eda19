"""The key of a kept answer: equal for what a node would get the same of, and for nothing else."""

from __future__ import annotations

import pytest
from fleet_fakes import fp32

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.cache.key import Keys
from capamesh.router.rules.constraints import ANYWHERE, Constraints

CALL = InferCall(ModelName("m"), ModelVersion(""), (fp32("a", [1, 2]), fp32("b", [3, 4])), ("y",))
ROW = Tensor("a", Datatype.FP32, (1, 2), b"01234567")


def key(call: InferCall = CALL, tenant: str = "lab", constraints: Constraints = ANYWHERE) -> bytes:
    return Keys().of(call, "d", "1", tenant, constraints)


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
