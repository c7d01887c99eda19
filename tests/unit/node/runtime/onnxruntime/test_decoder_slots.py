from __future__ import annotations

import ctypes
import dataclasses
import gc
import mmap
import os
import random
import sys
import tracemalloc
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_llama
from generation_fakes import Desk, run_schedule

from capamesh.node.generation import GenerationRequest, GenerationSettings, SamplingParameters
from capamesh.node.generation.pace import TILE
from capamesh.node.runtime.api import OutOfMemory
from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder, read_decoder_folder
from capamesh.node.runtime.onnxruntime import slot_memory
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.onnxruntime.decoder_slots import (
    THE_CPU,
    DecoderDevice,
    DecoderSlots,
)
from capamesh.node.runtime.onnxruntime.slot_memory import HostMemory
from capamesh.protocol.errors import ModelInvalid, RunFailed

Folders = dict[str, DecoderFolder]
KINDS = ("fp32", "fp16", "q8", "w8a8", "q4")
APART = DecoderDevice(is_apart=True)
"""The CPU as a device whose memory numpy does not reach."""
TOKENS = [(17 + 31 * at) % tiny_llama.VOCABULARY for at in range(24)]
LONG = [(17 + 31 * at) % tiny_llama.VOCABULARY for at in range(90)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The tiny decoder by what it is made of and told by."""
    base = tmp_path_factory.mktemp("decoders")
    made = {kind: tiny_llama.write_decoder_folder(base / kind, kind) for kind in KINDS}
    for name, kind in (("mask", "q8"), ("positions", "fp32")):
        has_positions = name == "positions"
        tiny_llama.write_genai_folder(base / name, kind=kind, has_positions=has_positions)
        made[name] = read_decoder_folder(base / name)
    return made


def slots_of(
    folder: DecoderFolder, count: int = 4, length: int = 96, device: DecoderDevice = THE_CPU
) -> DecoderSlots:
    return DecoderSlots(folder, count=count, length=length, threads=1, device=device)


def fill(slots: DecoderSlots, slot: int, tokens: list[int]) -> np.ndarray:
    slots.truncate(slot, 0)
    logits = slots.extend(slot, tokens, wants_logits=True)
    return logits.copy()


@pytest.mark.parametrize(("device", "cache"), [(THE_CPU, "_array"), (APART, "_copying")])
def test_slots_that_are_closed_hold_neither_model_nor_cache(
    folders: Folders, device: DecoderDevice, cache: str
) -> None:
    slots = slots_of(folders["fp16"], device=device)
    fill(slots, 0, TOKENS)
    slots.decode([1])
    held = [weakref.ref(each) for each in (getattr(slots._memory, cache), slots._session)]
    gc.disable()  # what is held in a circle may be for long
    try:
        slots.close()
        assert [each() for each in held] == [None, None]
    finally:
        gc.enable()
    slots.close()


@pytest.mark.parametrize("kind", ["fp32", "positions"])
def test_scores_are_those_of_a_plain_llama(folders: Folders, kind: str) -> None:
    expected = tiny_llama.logits(tiny_llama.weights(), TOKENS)
    slots = slots_of(folders[kind])
    np.testing.assert_allclose(fill(slots, 1, TOKENS[:20]), expected[19], rtol=1e-3, atol=1e-3)
    slots.copy(1, 0, 20)
    for at in range(20, 24):
        logits = slots.decode([TOKENS[at]])
        np.testing.assert_allclose(logits[0], expected[at], rtol=1e-3, atol=1e-3)
    assert slots.used(0) == 24


@pytest.mark.parametrize("kind", [*KINDS, "mask", "positions"])
def test_runs_of_all_lengths_give_equal_bits(folders: Folders, kind: str) -> None:
    slots = slots_of(folders[kind])
    for at in range(0, 90, 6):
        slots.extend(0, LONG[at : at + 6], wants_logits=False)
    cache = slots.save(0, 0, 90)
    for count in range(2, 90):
        if count % TILE != 1:
            fill(slots, 1, LONG[:count])
            assert slots.save(1, 0, count).tobytes() == cache[:, :, :count].tobytes(), count


@pytest.mark.skipif(sys.platform != "linux", reason="no slot lies several times elsewhere")
@pytest.mark.parametrize("kind", ["fp32", "q8", "w8a8", "q4", "mask", "positions"])
def test_tokens_replayed_together_have_the_bits_of_steps(folders: Folders, kind: str) -> None:
    slots = DecoderSlots(folders[kind], count=4, length=96, threads=2)
    for slot in range(3):
        fill(slots, slot, TOKENS[slot:])
    slots.copy(1, 3, 23)
    steps = [slots.decode([TOKENS[0], token, TOKENS[1]])[1].copy() for token in LONG[:37]]
    for first, end in ((0, 32), (32, 33), (33, 37)):
        scores = slots.replay([(3, LONG[first:end])], wants_logits=end > 32)
        assert scores is None or scores.tobytes() == steps[end - 1].tobytes()
    assert slots.used(3) == slots.used(1) == 60
    assert slots.save(3, 0, 60).tobytes() == slots.save(1, 0, 60).tobytes()
    with pytest.raises(RunFailed, match="room for 96"):
        slots.replay([(3, LONG[:37])], wants_logits=False)


def test_attention_that_reads_row_by_row_replays_step_by_step(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slots_of(folders["fp16"], length=128).most_replayed == 0
    assert slots_of(folders["fp32"], device=APART).most_replayed == 0
    monkeypatch.setenv("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")
    assert slots_of(folders["fp32"]).most_replayed == 0


@pytest.mark.skipif(sys.platform != "linux", reason="no slot lies several times elsewhere")
@pytest.mark.parametrize("kind", ["fp32", "q8", "w8a8"])
def test_answers_replayed_beside_each_other_have_the_bits_of_each_alone(
    folders: Folders, kind: str
) -> None:
    slots = DecoderSlots(folders[kind], count=4, length=96, threads=2)
    for slot in range(4):
        fill(slots, slot, TOKENS[slot % 2 :])
    alone = [
        slots.replay([(slot, LONG[slot : slot + count])], wants_logits=True)
        for slot, count in ((0, 9), (1, 4))
    ]
    together = slots.replay([(3, LONG[1:5]), (2, LONG[:9])], wants_logits=True)
    assert together is not None
    for one, slot, row, other in ((alone[0], 0, 1, 2), (alone[1], 1, 0, 3)):
        assert one is not None
        assert together[row].tobytes() == one[0].tobytes()
        used = slots.used(slot)
        assert slots.save(other, 0, used).tobytes() == slots.save(slot, 0, used).tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="no slot lies several times elsewhere")
def test_slot_lies_in_one_place_again_once_it_is_replayed_or_emptied(folders: Folders) -> None:
    slots = slots_of(folders["q8"])
    assert slots._repeated is not None
    for wants_logits in (True, False):
        fill(slots, 2, TOKENS)
        slots.replay([(2, [5, 6])], wants_logits=False)
        assert slot_memory.has_repeated_slots()
        assert 2 in slots._repeated.slots
        if wants_logits:
            slots.replay([(2, [7])], wants_logits=True)
        else:
            slots.truncate(2, 0)
        assert set(slots._repeated.slots) == {None}
        assert not slot_memory.has_repeated_slots()
    slots.replay([(0, [5, 6])], wants_logits=False)
    repeated = weakref.ref(slots._repeated)
    slots.close()
    assert repeated() is None
    assert not slot_memory.has_repeated_slots()


@pytest.mark.skipif(sys.platform != "linux", reason="no slot lies several times elsewhere")
def test_tokens_are_replayed_one_by_one_where_there_is_no_room_for_mappings(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = slots_of(folders["q8"])
    most = slot_memory._MOST_MAPPINGS
    seen = []
    for slot, limits in enumerate(((most, most), (99, most), (most, 99))):
        fill(slots, slot, TOKENS)
        for limit, first in zip(limits, (0, 20), strict=True):
            monkeypatch.setattr(slot_memory, "_MOST_MAPPINGS", limit)
            if limit == 99:  # another slot was replayed in between
                slots._repeated.clear()
            scores = slots.replay([(slot, LONG[first : first + 20])], wants_logits=first > 0)
        assert scores is not None
        seen.append((scores.tobytes(), slots.save(slot, 0, 64).tobytes(), slots.used(slot)))
    assert seen[0] == seen[1] == seen[2]
    monkeypatch.undo()
    monkeypatch.setattr(slot_memory, "_MOST_MAPPINGS", 99)
    assert slots_of(folders["q8"]).most_replayed == 0


@pytest.mark.parametrize("kind", [*KINDS, "mask", "positions"])
def test_scores_behind_each_token_are_exact(folders: Folders, kind: str) -> None:
    slots = slots_of(folders[kind])
    assert slots.scores_each
    slots.extend(1, TOKENS[:8], wants_logits=False)
    scores = slots.score(1, TOKENS[8:]).copy()
    assert scores.shape == (16, slots.vocabulary)
    assert slots.used(1) == 24
    for at in range(8, 24):
        assert scores[at - 8].tobytes() == fill(slots, 0, TOKENS[: at + 1]).tobytes()
    slots.truncate(1, 10)
    assert slots.score(1, TOKENS[10:12]).tobytes() == scores[2:4].tobytes()


@pytest.mark.parametrize("kind", [*KINDS, "mask", "positions"])
def test_slots_of_a_device_hold_equal_bits(folders: Folders, kind: str) -> None:
    here, there = slots_of(folders[kind]), slots_of(folders[kind], device=APART)
    assert there.token_bytes == here.token_bytes
    for slot, count in ((0, 24), (1, 7), (3, 90)):
        expected = fill(here, slot, LONG[:count])
        assert fill(there, slot, LONG[:count]).tobytes() == expected.tobytes()
        saved = there.save(slot, 2, count)
        assert saved.tobytes() == here.save(slot, 2, count).tobytes()
    for slots in (here, there):
        slots.copy(0, 2, 20)
        slots.truncate(1, 5)
        slots.load(1, slots.save(3, 30, 50), 11)
        slots.copy(0, 2, 20)
    assert [there.used(slot) for slot in range(4)] == [24, 16, 20, 90]
    for step in range(3):
        decoded = [slots.decode(TOKENS[step : step + 4]).copy() for slots in (here, there)]
        assert decoded[0].tobytes() == decoded[1].tobytes()
    for slot in range(4):
        count = here.used(slot)
        assert there.save(slot, 0, count).tobytes() == here.save(slot, 0, count).tobytes()


def test_device_is_told_of_what_goes_wrong_there(folders: Folders) -> None:
    told: list[Exception] = []
    device = dataclasses.replace(APART, on_error=told.append)
    slots = slots_of(folders["fp32"], device=device)
    slots._session = SimpleNamespace(
        run_with_iobinding=None,
        io_binding=slots._session.io_binding,
        get_outputs=slots._session.get_outputs,
    )
    with pytest.raises(RunFailed):
        fill(slots, 0, TOKENS)
    assert len(told) == 1
    nowhere = dataclasses.replace(device, place=("nowhere", 0))
    with pytest.raises(OutOfMemory, match="no room for 4 slots of 96 tokens"):
        slots_of(folders["fp32"], device=nowhere)
    assert len(told) == 2


def test_slot_takes_no_more_tokens_than_it_has_room_for(folders: Folders) -> None:
    slots = slots_of(folders["fp32"], length=24)
    fill(slots, 0, TOKENS)
    with pytest.raises(RunFailed, match="room for 24"):
        slots.decode([1])
    with pytest.raises(RunFailed, match="should get 25 more"):
        slots.extend(1, [*TOKENS, 1], wants_logits=False)
    assert slots.used(0) == 24


def test_bad_file_is_the_models_fault(folders: Folders, tmp_path: Path) -> None:
    bad = tmp_path / "model.onnx"
    bad.write_bytes(b"nothing")
    with pytest.raises(ModelInvalid, match="cannot load it"):
        DecoderSlots(folders["fp32"], count=1, length=24, threads=1, onnx_file=bad)
    config = dataclasses.replace(folders["fp32"].config, layers=3)
    with pytest.raises(ModelInvalid, match=r"no input 'past_key_values\.2\.key'"):
        slots_of(dataclasses.replace(folders["fp32"], config=config))
    with pytest.raises(ModelInvalid, match="2 to 512"):
        slots_of(folders["fp32"], length=513)


def schedule(
    slots: DecoderSlots, alone: DecoderSlots, seed: int, lookup_tokens: int = 0
) -> Counter[str]:
    """Run a random schedule on `slots`, beside one request at a time on `alone`.

    Where any tokens are guessed, answers are of few, so that they repeat themselves.
    """
    rng = random.Random(seed)
    for place in range(slots.count):
        slots.truncate(place, 0)
    settings = GenerationSettings(
        pool_tokens=rng.choice([0, 110]),
        overcommit=rng.choice([1.0, 4.0]),
        target_gap_s=rng.choice([0.01, 1.0]),
        max_chunk=rng.choice([4, 5, 16, 80]),
        prefix_bytes=rng.choice([0, 2**20]),
        lookup_tokens=lookup_tokens,
    )
    few: list[int] = rng.sample(range(tiny_llama.VOCABULARY), 3) if lookup_tokens else []
    stem = rng.choices(few or range(tiny_llama.VOCABULARY), k=70)
    bias = dict.fromkeys(few, 50.0)

    def new_request() -> GenerationRequest:
        prompt = stem[: rng.randint(1, 70)] + [rng.randrange(500)] * rng.choice([0, 1, 2])
        sampling = SamplingParameters(rng.choice([0.0, 1.0]), top_p=0.9, seed=seed, logit_bias=bias)
        return GenerationRequest(
            tuple(prompt), rng.randint(1, 14), sampling, is_bulk=rng.random() < 0.3
        )

    def ids_alone(request: GenerationRequest, _: int) -> list[int]:
        alone.truncate(0, 0)
        desk = Desk(alone, GenerationSettings(prefix_bytes=0, lookup_tokens=lookup_tokens))
        (sequence,) = desk.submit(request)
        desk.run()
        return desk.ids(sequence)

    return run_schedule(rng, Desk(slots, settings), new_request, ids_alone)


@pytest.mark.full
@pytest.mark.seeds
@pytest.mark.parametrize(
    ("kind", "schedules", "device"),
    [
        ("q8", 200, THE_CPU),
        ("w8a8", 50, THE_CPU),
        ("fp32", 50, THE_CPU),
        ("mask", 50, THE_CPU),
        ("fp16", 30, APART),
    ],
)
def test_answers_of_random_schedules_are_those_of_requests_alone(
    folders: Folders, kind: str, schedules: int, device: DecoderDevice
) -> None:
    slots, alone = slots_of(folders[kind], device=device), slots_of(folders[kind], 1)
    assert bool(slots.most_replayed) == (device is THE_CPU and sys.platform == "linux")
    runs = [schedule(slots, alone, seed) for seed in range(schedules)]
    assert sum(each["compared"] for each in runs) > 4 * schedules
    assert sum(each["bulk_gave_way"] for each in runs) > schedules // 10


@pytest.mark.full
@pytest.mark.seeds
@pytest.mark.parametrize("kind", ["q8", "w8a8", "fp32", "mask"])
def test_guesses_of_schedules_are_exact(folders: Folders, kind: str) -> None:
    slots, alone = slots_of(folders[kind]), slots_of(folders[kind], 1)
    runs = [schedule(slots, alone, seed, 1 + seed % 15) for seed in range(50)]
    assert sum(each["accepted"] for each in runs) > 50


@pytest.mark.slow
def test_answers_of_ten_thousand_schedules_are_exact(folders: Folders) -> None:
    slots, alone = slots_of(folders["q8"]), slots_of(folders["q8"], 1)
    for seed in range(10_000):
        schedule(slots, alone, seed)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages are what they are")
def test_slot_costs_what_is_in_it_whatever_its_length() -> None:
    memory = HostMemory((8, 8, 4, 4096, 64), np.float32)
    assert memory.size_bytes == 2**28
    before = resident_bytes()
    memory.load(0, 0, np.ones((8, 4, 1, 64), np.float32), 1)
    for slot in range(1, 8):
        memory.copy(0, slot, 1)
    assert resident_bytes() - before < 2**25
    assert memory.save(7, 0, 2).tolist() == [[[[1.0] * 64, [0.0] * 64]] * 4] * 8
    memory.free()


@pytest.mark.skipif(sys.platform != "linux", reason="no slot lies several times elsewhere")
def test_pages_of_a_repeated_slot_count_once_in_the_memory_of_the_process() -> None:
    memory = HostMemory((2, 2, 4, 4096, 64), np.float32)
    repeated = memory.repeated(32)
    assert repeated is not None
    memory.load(1, 0, np.ones((2, 4, 4096, 64), np.float32), 4096)
    before, used = resident_bytes(), OnnxBackend().used_bytes()
    assert repeated.point([1] * 32)
    for part in range(2):
        rows = (ctypes.c_char * (32 * repeated.part_bytes)).from_address(repeated.address(part, 0))
        assert set(rows[3 :: mmap.PAGESIZE]) == {0x3F}  # the first byte of 1.0
    assert resident_bytes() - before > 2**27
    assert abs(OnnxBackend().used_bytes() - used) < 2**24
    repeated.clear()
    assert resident_bytes() - before < 2**24
    memory.free()


def test_copy_of_a_slot_takes_no_memory_of_its_own() -> None:
    memory = HostMemory((8, 2, 4, 256, 64), np.float32)
    memory.load(0, 0, np.ones((8, 4, 256, 64), np.float32), 256)
    tracemalloc.start()
    try:
        memory.copy(0, 1, 256)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < memory.size_bytes // 16
    assert memory.save(1, 255, 256).tolist() == [[[[1.0] * 64]] * 4] * 8
    memory.free()
