"""The store as the router's loop uses it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from pathlib import Path

import pytest
from job_desk import PINNED, Clock, ranges, spec_with

from capamesh.router.jobs.errors import JobsUnavailable
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import job_store
from capamesh.router.jobs.store.database import Change, open_database
from capamesh.router.jobs.store.group_commit import StoreThread, Turn
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.store.state_operations import FIRST
from capamesh.router.jobs.stored_files import Owner, Purpose
from capamesh.router.jobs.values import Counts

LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the disk as long as it takes."""
    monkeypatch.setattr(job_store, "PATIENCE_S", LIMIT_S)


async def test_loop_does_not_wait_for_a_database_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "PATIENCE_S", 0)
    thread = StoreThread(open_database(str(tmp_path / "jobs.db"), Clock()))
    store = JobStore(thread, Clock())
    has_begun, go_on = threading.Event(), threading.Event()

    def stands(_turn: Turn) -> None:
        has_begun.set()
        assert go_on.wait(LIMIT_S)

    held = thread.put(stands)
    assert has_begun.wait(LIMIT_S)  # before, what is put next would be of its group
    with pytest.raises(JobsUnavailable, match="has not answered"):
        await store.submit("acme", spec_with("key"), PINNED)
    go_on.set()
    await asyncio.wrap_future(held)
    monkeypatch.setattr(job_store, "PATIENCE_S", LIMIT_S)
    # it was taken back before its turn
    assert await store.page(None, None, 10) == []
    await store.close()


async def test_counts_of_several_jobs_are_each_in_its_place(tmp_path: Path) -> None:
    store = JobStore.open(str(tmp_path / "jobs.db"), Clock())
    first, _ = await store.submit("acme", spec_with("first"), PINNED)
    await store.claim_plan("router")
    assert await store.add_shards(first.id, 1, 0, ranges(3))
    second, _ = await store.submit("acme", spec_with("second"), PINNED)
    planned, empty = Counts(shards=3), Counts()
    assert await store.counts_of([second.id, first.id, second.id]) == [empty, planned, empty]
    assert await store.counts_of([first.id]) == [await store.counts(first.id)]
    assert await store.counts_of([]) == []
    await store.close()


async def test_looks_wait_for_nobody_who_writes(tmp_path: Path) -> None:
    where = str(tmp_path / "jobs.db")
    store = JobStore.open(where, Clock())
    job, _ = await store.submit("acme", spec_with(), PINNED)
    file = await store.files.begin(Owner("acme"), "rows.jsonl", Purpose.BATCH, 10, 60.0, 10)
    other = open_database(where, Clock())
    with other.transaction(Change.LASTING):
        assert (await store.get(job.id, None)).id == job.id
        assert (await store.look(job.id, None, 0)).job.id == job.id
        looks: list[Awaitable[object]] = [
            store.counts(job.id),
            store.counts_of([job.id]),
            store.page("acme", None, 10, JobState.PLANNING),
            store.count_states(),
            store.look_at_states(0.0, FIRST, 10),
            store.some([job.id]),
            store.events(job.id, 0, 10),
            store.untidy(10),
            store.ended_leases(),
            store.holders([job.id]),
            store.bad_rows(job.id, -1, 10),
            store.manifests(job.id, 0, 10),
            store.place_of(job.id, 0),
            store.files.get(file.id, None),
            store.files.arriving("acme", "rows.jsonl"),
            store.files.page("acme", "", None, 10, is_newest_first=True),
            store.files.known([file.id]),
            store.batches.page("acme", None, 10),
            store.batches.undone(job.id, 0),
        ]
        for look in looks:  # one after the other, so that no group is as one of them
            await look
    other.engine.dispose()
    await store.close()
