"""A job beside people in virtual time: people hardly notice it, and it gets what they leave."""

from __future__ import annotations

import pytest
from benchmark_modules import load

bulk_node = load("bulk_node")
ROWS = 8_000


@pytest.fixture(autouse=True)
def _shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_node, "ROWS", ROWS)


@pytest.mark.seeds
@pytest.mark.parametrize("device", bulk_node.DEVICES[:-1], ids=lambda device: device.name)
def test_people_s_slowest_answers_take_little_longer_beside_a_job(device: object) -> None:
    calm, shared = (
        bulk_node.World(device, 0.5, has_job=has_job).run() for has_job in (False, True)
    )
    before, after = (sorted(world.latencies_s) for world in (calm, shared))
    assert len(before) > ROWS * 0.45
    assert after[int(0.99 * len(after))] <= 1.35 * before[int(0.99 * len(before))]
    assert shared.job_rows > 0
    assert shared.refused == 0


def test_people_hardly_notice_a_job_that_runs_in_the_background() -> None:
    (device,) = (each for each in bulk_node.DEVICES if each.has_background)
    calm, shared = (
        bulk_node.World(device, 0.5, has_job=has_job).run() for has_job in (False, True)
    )
    before, after = (sorted(world.latencies_s) for world in (calm, shared))
    for part in (0.5, 0.99):
        assert after[int(part * len(after))] <= 1.05 * before[int(part * len(before))]
    idle = 1.0 - calm.busy_s / device.looked_s
    assert shared.job_rows >= 0.95 * idle * ROWS
    assert shared.refused == 0


def test_job_gets_what_people_leave_where_a_batch_saves_little() -> None:
    shared = bulk_node.World(bulk_node.DEVICES[0], 0.5, has_job=True).run()
    assert shared.job_rows >= 0.9 * 0.5 * ROWS
