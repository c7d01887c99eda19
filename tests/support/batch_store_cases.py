"""What a store does with batches, whichever database it is; the tests that import these have the fixture `desk`."""

from __future__ import annotations

from typing import Any

import pytest
from file_store_cases import whole
from job_desk import NOW_S, PINNED, Desk, manifest, ranges

from capamesh.protocol.errors import FileConflict, FileNotFound, JobNotFound, KeyUsed
from capamesh.router.jobs.batches import Batch, BatchAsked, BatchState
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputFormat, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import batch_operations as batches
from capamesh.router.jobs.store import file_operations as files
from capamesh.router.jobs.store import job_operations as jobs
from capamesh.router.jobs.store import lease_operations as leasing
from capamesh.router.jobs.store import plan_operations as plans
from capamesh.router.jobs.store import shard_operations as shards
from capamesh.router.jobs.stored_files import DAY_S, FileId, Owner, Purpose, StoredFile, Whole
from capamesh.router.jobs.values import LEASE_S, JobId


def created(
    desk: Desk, file: StoredFile, name: str = "b", key: str = "", **changed: Any
) -> tuple[Batch, bool]:
    source = InputSpec(f"upload:{file.id}", InputFormat.BATCH, {"rows": ("body",)})
    deadline_s = desk.clock.now_s + 60
    output = OutputSpec("", OutputFormat.BATCH)
    spec = JobSpec("words", source, output, deadline_s=deadline_s, client_key=key)
    given = {"endpoint": "/v1/embeddings", "input_file": file.id, "window": "24h", "keep_s": DAY_S}
    asked = BatchAsked(**{**given, "metadata": {"for": "me"}, **changed})
    return desk.call(batches.create, JobId(f"job-{name}"), file.tenant, spec, PINNED, asked)


def ended(desk: Desk, name: str = "b", done: int = 3) -> Batch:
    """Return a batch of three shards, of which so many are done and the others cancelled."""
    batch, _ = created(desk, whole(desk, name), name)
    taken = desk.call(plans.claim_plan, "planner")
    assert taken is not None
    desk.call(plans.add_shards, batch.job.id, taken[1], 0, ranges(3))
    job = desk.call(plans.finish_plan, batch.job.id, taken[1], "fingerprint")
    for lease in desk.call(leasing.claim, job.id, job.spec, "router", done):
        desk.call(shards.commit, lease, job.spec, manifest(lease))
    to = JobState.COMPLETED if done == 3 else JobState.CANCELLED
    desk.call(jobs.move, job.id, to)
    return desk.call(batches.get, job.id)


def made(desk: Desk, name: str) -> tuple[FileId, Whole]:
    file = desk.call(
        files.begin,
        FileId(f"file-{name}"),
        Owner("acme"),
        name,
        Purpose.BATCH_OUTPUT,
        0,
        DAY_S,
    )
    return file.id, Whole(Purpose.BATCH_OUTPUT, DAY_S, 7, "ab")


def test_batch_is_a_job_and_what_was_asked(desk: Desk) -> None:
    file = whole(desk)
    batch, is_new = created(desk, file)
    assert is_new
    assert (batch.id, batch.state) == ("batch_b", BatchState.VALIDATING)
    assert batch.asked == BatchAsked("/v1/embeddings", file.id, "24h", DAY_S, {"for": "me"})
    assert (batch.made_s, batch.output_file, batch.error_file, batch.trouble) == (
        None,
        None,
        None,
        "",
    )
    assert desk.call(batches.get, batch.job.id, "acme") == batch
    assert desk.call(jobs.get, batch.job.id) == batch.job
    with pytest.raises(FileConflict, match="job-b reads"):
        desk.call(files.remove, file.id)


def test_batch_of_another_tenant_is_not_found(desk: Desk) -> None:
    batch, _ = created(desk, whole(desk))
    for job, tenant in ((batch.job.id, "other"), (JobId("job-none"), "acme")):
        with pytest.raises(JobNotFound, match="there is no batch 'batch_"):
            desk.call(batches.get, job, tenant)
    assert desk.call(batches.page, "other", None, 10) == []


def test_job_that_is_no_batch_is_none(desk: Desk) -> None:
    job = desk.submitted()
    with pytest.raises(JobNotFound):
        desk.call(batches.get, job.id)
    assert desk.call(batches.page, None, None, 10) == []


def test_file_that_was_deleted_meanwhile_is_told(desk: Desk) -> None:
    file = whole(desk)
    desk.call(files.remove, file.id)
    with pytest.raises(FileNotFound):
        created(desk, file)
    assert desk.call(jobs.page, None, None, 10) == []


def test_client_key_names_one_batch_of_a_tenant(desk: Desk) -> None:
    file = whole(desk)
    first, _ = created(desk, file, "a", "key")
    desk.clock.now_s += 5  # the deadline is another one then
    again, is_new = created(desk, file, "b", "key")
    assert (again, is_new) == (first, False)
    with pytest.raises(KeyUsed, match="batch_a"):
        created(desk, file, "c", "key", window="48h")
    assert len(desk.call(batches.page, "acme", None, 10)) == 1


def test_batches_are_listed_page_by_page(desk: Desk) -> None:
    file, other = whole(desk), whole(desk, "o", "other")
    mine = [created(desk, file, name)[0].id for name in "abc"]
    theirs = created(desk, other, "d")[0].id
    first = desk.call(batches.page, "acme", None, 2)
    rest = desk.call(batches.page, "acme", first[-1].job.id, 2)
    assert [each.id for each in (*first, *rest)] == mine[::-1]
    assert [each.id for each in desk.call(batches.page, None, None, 2)] == [theirs, mine[2]]


def test_files_of_a_batch_that_has_ended_are_made_once(desk: Desk) -> None:
    created(desk, whole(desk, "r"), "r")
    assert desk.call(batches.claim) is None  # it has not ended
    batch = ended(desk)
    assert batch.state is BatchState.FINALIZING
    taken = desk.call(batches.claim)
    assert taken == (batch, 1)
    assert desk.call(batches.claim) is None
    output, errors = made(desk, "output"), made(desk, "errors")
    desk.clock.now_s += 2
    assert desk.call(batches.finish, batch.job.id, 1, output, errors)
    done = desk.call(batches.get, batch.job.id)
    assert (done.state, done.made_s) == (BatchState.COMPLETED, NOW_S + 2)
    assert (done.output_file, done.error_file) == (output[0], errors[0])
    assert desk.call(files.get, output[0]).is_ready
    assert not desk.call(batches.finish, batch.job.id, 1, made(desk, "again"), None)
    assert not desk.call(files.get, FileId("file-again")).is_ready
    desk.clock.now_s += 2 * LEASE_S
    assert desk.call(batches.claim) is None


def test_router_that_lost_the_lease_makes_no_files(desk: Desk) -> None:
    batch = ended(desk, done=2)
    job = batch.job.id
    assert desk.call(batches.claim) == (batch, 1)
    desk.clock.now_s += 10
    assert desk.call(batches.renew, job, 1)
    desk.clock.now_s += 10
    assert desk.call(batches.claim) is None
    desk.call(batches.fail, job, 1, "the disk is full")
    desk.clock.now_s += LEASE_S
    taken = desk.call(batches.claim)
    assert taken is not None
    assert (taken[1], taken[0].trouble) == (2, "the disk is full")
    assert not desk.call(batches.renew, job, 1)
    desk.call(batches.fail, job, 1, "too late")
    assert not desk.call(batches.finish, job, 1, None, None)
    assert desk.call(batches.finish, job, 2, None, None)
    done = desk.call(batches.get, job)
    assert (done.state, done.trouble, done.output_file) == (BatchState.CANCELLED, "", None)


def test_rows_that_were_not_done_are_found(desk: Desk) -> None:
    job = ended(desk, done=1).job.id
    assert desk.call(batches.undone, job, 0) == ranges(3)[1:]
    assert desk.call(batches.undone, job, 11) == ranges(3)[2:]
    assert desk.call(batches.undone, job, 21) == []


def test_batch_is_forgotten_with_its_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_TENANT_JOBS", 1)
    batch = ended(desk)
    desk.call(jobs.tidied, batch.job.id)
    desk.submitted()
    with pytest.raises(JobNotFound):
        desk.call(batches.get, batch.job.id)
    assert desk.call(batches.page, None, None, 10) == []
