"""Which kept answers stay, and their keys: equal for what a node would get the same of, and for nothing else."""

from __future__ import annotations

import random

import pytest
from fleet_fakes import fp32

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import InferAnswer, InferCall, LoadReport
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.cache.entry import ENTRY_BYTES, OUTPUT_BYTES, Entry, Layouts
from capamesh.router.cache.key import Keys
from capamesh.router.cache.store import TRACE_BYTES, Store
from capamesh.router.rules.constraints import ANYWHERE, Constraints

SIZE = ENTRY_BYTES + OUTPUT_BYTES + 100


def entry(name: object, size_bytes: int = 100) -> Entry:
    outputs = (Tensor("y", Datatype.UINT8, (size_bytes,), bytes(size_bytes)),)
    given = InferAnswer(ModelVersion("1"), outputs, 0, 0, LoadReport())
    key, mark = str(name).encode(), hash(str(name))
    return Entry(key, given, Layouts().of(given), PeerId("A"), None, 0.0, mark=mark)


def test_entry_of_use_survives_a_flood_of_those_of_none() -> None:
    store = Store(100 * SIZE)
    for name in range(50):
        store.put(entry(name))
        store.get(str(name).encode())
    for name in range(50, 5000):
        store.put(entry(name))
        assert store.used_bytes <= store.most_bytes
    assert all(store.get(str(name).encode()) is not None for name in range(50))
    assert store.evicted == 4950 - (len(store) - 50)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_add_up_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    store = Store(40 * SIZE)
    for _ in range(3000):
        name = rng.randrange(200)
        kept = store.get(str(name).encode())
        match rng.randrange(4):
            case 0 if kept is not None:
                store.drop(kept)
            case 1 if kept is not None:
                store.add_form(kept, rng.random(), "form", rng.randrange(500))
            case _:
                store.put(entry(name, rng.randrange(3000)))
        queued = [*store._small, *store._main]
        assert store.used_bytes == (
            sum(each.size_bytes for each in queued) + TRACE_BYTES * len(store._traces)
        )
        assert store._small_bytes == sum(each.size_bytes for each in store._small)
        assert store.used_bytes <= store.most_bytes
        assert {each.key for each in queued if not each.is_dropped} == store._entries.keys()
        assert len(store._traces) == len(store._trace_queue)


def test_answer_has_bytes_of_its_own_and_no_times_of_a_run() -> None:
    body = bytearray(b"before" + bytes(fp32("y", [1, 2]).data))
    outputs = (
        Tensor("y", Datatype.FP32, (1, 2), memoryview(body)[6:]),
        Tensor("z", Datatype.UINT8, (3,), b"abc"),
    )
    given = InferAnswer(ModelVersion("1"), outputs, 5, 6, LoadReport(1), b"described")
    kept = Entry(b"", given, Layouts().of(given), PeerId("A"), None, 0.0).answer
    body[6:] = bytes(8)
    assert kept.outputs[0] == fp32("y", [1, 2]).replace(data=bytes(fp32("y", [1, 2]).data))
    assert kept.outputs[1] == outputs[1]
    assert (kept.queue_us, kept.run_us, kept.load) == (0, 0, LoadReport())
    assert (kept.version, kept.described) == ("1", b"described")


CALL = InferCall(ModelName("m"), ModelVersion(""), (fp32("a", [1, 2]), fp32("b", [3, 4])), ("y",))
ROW = Tensor("a", Datatype.FP32, (1, 2), b"01234567")


def key(call: InferCall = CALL, tenant: str = "lab", constraints: Constraints = ANYWHERE) -> bytes:
    return Keys().of(call, "d", "1", tenant, constraints)


def bytes_of(*texts: bytes) -> InferCall:
    inputs = (Tensor(f"t{at}", Datatype.UINT8, (len(text),), text) for at, text in enumerate(texts))
    return CALL.replace(inputs=tuple(inputs))


def test_any_difference_that_a_node_would_see_is_another_key() -> None:
    a, b = CALL.inputs
    others = [
        key(CALL.replace(model=ModelName("n"))),
        *(key(CALL.replace(outputs=outputs)) for outputs in ((), ("y", "z"))),
        key(CALL.replace(classes=(3,))),
        *(
            key(CALL.replace(inputs=inputs))
            for inputs in (
                *((a,), (ROW,), (a, fp32("b", [3, 5])), (a, fp32("c", [3, 4]))),
                (a.replace(data=b.data), b.replace(data=a.data)),
            )
        ),
        *(key(bytes_of(*each)) for each in ((b"ab", b"c"), (b"a", b"bc"), (b"", b"abc"))),
        Keys().of(CALL, "e", "1", "lab", ANYWHERE),
        Keys().of(CALL, "d", "2", "lab", ANYWHERE),
        *(key(tenant=tenant) for tenant in ("", "LAB")),
        *(
            key(constraints=each)
            for each in (
                Constraints(max_price=2.0),
                Constraints(regions=frozenset({"eu"})),
                Constraints(device_kinds=frozenset({"eu"})),
                Constraints(regions=frozenset()),
                Constraints(peers=frozenset({PeerId("A")})),
                Constraints(not_at=frozenset({PeerId("A")})),
            )
        ),
    ]
    assert len({key(), *others}) == len(others) + 1
    both = frozenset({"eu", "us", "asia", "africa"})
    again = Constraints(regions=frozenset(sorted(both)))
    assert key(constraints=Constraints(regions=both)) == key(constraints=again)
