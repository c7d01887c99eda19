"""What a store does with uploaded files and with batches: on SQLite here; the integration tests have these on PostgreSQL, too."""

from __future__ import annotations

from typing import Any

import pytest
from job_desk import NOW_S, PINNED, Desk, ranges

from capamesh.protocol.errors import (
    FileConflict,
    FileNotFound,
    JobNotFound,
    KeyUsed,
    StorageFull,
    TooManyRequests,
)
from capamesh.router.jobs.batches import Batch, BatchAsked, BatchState
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputFormat, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import batch_operations as batches
from capamesh.router.jobs.store import file_operations as files
from capamesh.router.jobs.store import job_operations as jobs
from capamesh.router.jobs.store import plan_operations as plans
from capamesh.router.jobs.stored_files import (
    ARRIVAL_S,
    DAY_S,
    FileId,
    Owner,
    Purpose,
    Requests,
    StoredFile,
    Whole,
)
from capamesh.router.jobs.values import LEASE_S, Job, JobId

MOST_BYTES = 30
REQUESTS = Requests(3, "/v1/embeddings", "words")


def begun(
    desk: Desk,
    name: str = "a",
    tenant: str = "acme",
    size: int = 10,
    keep_s: float = DAY_S,
    site: str = "",
    most: int = MOST_BYTES,
) -> StoredFile:
    owner = Owner(tenant, site)
    return desk.call(
        files.begin, FileId(f"file-{name}"), owner, "in.jsonl", Purpose.BATCH, size, keep_s, most
    )


def whole(desk: Desk, name: str = "a", tenant: str = "acme", **changed: Any) -> StoredFile:
    file = begun(desk, name, tenant, most=1000)
    about = {"purpose": Purpose.BATCH, "keep_s": DAY_S, "size_bytes": 12, "sha256": "ab"}
    return desk.call(files.finish, file.id, Whole(**{**about, "requests": REQUESTS, **changed}))


def reading(desk: Desk, file: StoredFile, tenant: str = "acme") -> Job:
    """Return a job of a tenant that reads a file."""
    source = InputSpec(f"upload:{file.id}", InputFormat.JSONL, {"x": ("pixels",)})
    spec = JobSpec("digits", source, OutputSpec("/data/out"))
    job, _ = desk.call(jobs.submit, JobId(f"job-{file.id}"), tenant, spec, PINNED)
    return job


# files


def test_file_is_kept_from_its_beginning_to_its_end(desk: Desk) -> None:
    file = begun(desk)
    kept_s = (NOW_S, NOW_S + ARRIVAL_S, DAY_S)
    about = ("acme", "in.jsonl", Purpose.BATCH, False, 10)
    assert file == StoredFile(FileId("file-a"), *about, *kept_s)
    desk.clock.now_s += 5
    desk.call(files.reserve, file.id, 20, MOST_BYTES)
    arriving = desk.call(files.get, file.id, "acme")
    assert (arriving.size_bytes, arriving.expires_s) == (20, NOW_S + 5 + ARRIVAL_S)
    done = desk.call(files.finish, file.id, Whole(Purpose.USER_DATA, 2 * DAY_S, 12, "ab", REQUESTS))
    assert (done.is_ready, done.size_bytes, done.sha256) == (True, 12, "ab")
    assert (done.purpose, done.requests) == (Purpose.USER_DATA, REQUESTS)
    assert done.expires_s == NOW_S + 2 * DAY_S
    assert desk.call(files.finish, file.id, Whole(Purpose.BATCH, 1.0, 1, "cd")) == done


def test_file_of_another_tenant_is_not_found(desk: Desk) -> None:
    file, none = whole(desk), FileId("file-none")
    for asked in (
        lambda turn: files.get(turn, file.id, "other"),
        lambda turn: files.remove(turn, file.id, "other"),
        lambda turn: files.get(turn, none, "acme"),
        lambda turn: files.reserve(turn, none, 5, MOST_BYTES),
        lambda turn: files.finish(turn, none, Whole(Purpose.BATCH, 1.0, 1, "")),
    ):
        with pytest.raises(FileNotFound):
            desk.run(asked)
    assert desk.call(files.page, "other", "", None, 10) == []
    assert desk.call(files.get, file.id) == file


def test_files_that_are_whole_are_listed_page_by_page(desk: Desk) -> None:
    made = [whole(desk, name).id for name in "abcd"]
    data = whole(desk, "e", purpose=Purpose.USER_DATA).id
    begun(desk, "f", most=1000)
    theirs = whole(desk, "g", "other").id

    def page(
        tenant: str | None, last: str | None = None, purpose: str = "", count: int = 10, **more: Any
    ) -> list[str]:
        return [each.id for each in desk.call(files.page, tenant, purpose, last, count, **more)]

    assert page("acme") == [data, *made[::-1]]
    assert page(None) == [theirs, data, *made[::-1]]
    assert page("acme", purpose="batch", count=2) == [made[3], made[2]]
    assert page("acme", made[2], count=5) == [made[1], made[0]]
    assert page("acme", made[1], count=2, is_newest_first=False) == [made[2], made[3]]
    assert page("acme", purpose="user_data", is_newest_first=False) == [data]


def test_tenant_has_no_more_files_and_bytes_than_it_may(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_OWN_FILES", 2)
    first = begun(desk)
    begun(desk, "b")
    with pytest.raises(TooManyRequests, match="have 2 files"):
        begun(desk, "c")
    begun(desk, "d", "other")
    with pytest.raises(
        StorageFull, match="20 bytes of files here, and 11 more are over the 30 that"
    ):
        desk.call(files.reserve, first.id, 21, MOST_BYTES)
    desk.call(files.reserve, first.id, 20, MOST_BYTES)
    desk.call(files.remove, first.id)
    begun(desk, "c", size=20)
    monkeypatch.setattr(files, "MAX_FILES", 3)
    with pytest.raises(TooManyRequests, match="the store has 3 files"):
        begun(desk, "e", "third")


def test_files_of_clients_without_keys_count_to_their_address_whatever_tenant_they_name(
    desk: Desk,
) -> None:
    first = begun(desk, "a", "acme", site="here")
    begun(desk, "b", "other", size=20, site="here")
    with pytest.raises(StorageFull, match="clients of the address here have 30 bytes"):
        begun(desk, "c", "third", size=1, site="here")
    with pytest.raises(StorageFull, match="address here"):
        desk.call(files.reserve, first.id, 11, MOST_BYTES)
    begun(desk, "d", "acme", size=30, site="elsewhere")
    desk.call(files.remove, first.id)
    begun(desk, "e", "third", site="here")


def test_file_that_a_job_of_its_tenant_reads_is_not_deleted(desk: Desk) -> None:
    file, other = whole(desk), whole(desk, "ab")
    job = reading(desk, file)
    reading(desk, other, "other")
    with pytest.raises(FileConflict, match=job.id):
        desk.call(files.remove, file.id, "acme")
    desk.call(files.remove, other.id, "acme")
    desk.move(job, JobState.CANCELLED)
    assert desk.call(files.remove, file.id, "acme") == file
    with pytest.raises(FileNotFound):
        desk.call(files.remove, file.id, "acme")


def test_files_whose_time_has_come_go_but_for_those_that_jobs_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_EXPIRED", 2)
    read, gone = whole(desk), whole(desk, "b")
    stays = whole(desk, "c", keep_s=3 * DAY_S)
    broken_off = begun(desk, "d", "other")
    job = reading(desk, read)
    assert desk.call(files.expire, None) == ([], None)
    desk.clock.now_s += 1.5 * DAY_S
    first, last = desk.call(files.expire, None)
    assert (first, last) == ([(gone.id, "acme")], gone.id)
    assert desk.call(files.expire, last) == ([(broken_off.id, "other")], None)
    desk.move(job, JobState.CANCELLED)
    assert desk.call(files.expire, None) == ([(read.id, "acme")], None)
    assert desk.call(files.known, [read.id, gone.id, stays.id]) == {stays.id}
    assert desk.call(files.known, []) == set()


# batches


def created(
    desk: Desk, file: StoredFile, name: str = "b", key: str = "", **changed: Any
) -> tuple[Batch, bool]:
    source = InputSpec(f"upload:{file.id}", InputFormat.BATCH, {"rows": ("body",)})
    output = OutputSpec("", OutputFormat.BATCH)
    deadline_s = desk.clock.now_s + 60
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
    for lease in desk.claim(job, "router", done):
        desk.commit(job, lease)
    desk.move(job, JobState.COMPLETED if done == 3 else JobState.CANCELLED)
    return desk.call(batches.get, job.id)


def made(desk: Desk, name: str) -> tuple[FileId, Whole]:
    file = FileId(f"file-{name}")
    desk.call(files.begin, file, Owner("acme"), name, Purpose.BATCH_OUTPUT, 0, DAY_S)
    return file, Whole(Purpose.BATCH_OUTPUT, DAY_S, 7, "ab")


def test_batch_is_a_job_and_what_was_asked_and_is_its_tenants_alone(desk: Desk) -> None:
    file = whole(desk)
    batch, is_new = created(desk, file)
    assert is_new
    assert (batch.id, batch.state) == ("batch_b", BatchState.VALIDATING)
    assert batch.asked == BatchAsked("/v1/embeddings", file.id, "24h", DAY_S, {"for": "me"})
    made_of = (batch.made_s, batch.output_file, batch.error_file, batch.trouble)
    assert made_of == (None, None, None, "")
    assert desk.call(batches.get, batch.job.id, "acme") == batch
    assert desk.now(batch.job) == batch.job
    with pytest.raises(FileConflict, match="job-b reads"):
        desk.call(files.remove, file.id)
    plain = desk.submitted()
    for job, tenant in (
        (batch.job.id, "other"),
        (JobId("job-none"), "acme"),
        (plain.id, "acme"),  # which is no batch
    ):
        with pytest.raises(JobNotFound, match="there is no batch 'batch_"):
            desk.call(batches.get, job, tenant)
    assert desk.call(batches.page, "other", None, 10) == []
    assert desk.call(batches.page, None, None, 10) == [batch]


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
    assert created(desk, file, "b", "key") == (first, False)
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


def test_files_of_a_batch_that_has_ended_are_made_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, _ = created(desk, whole(desk, "r"), "r")
    assert desk.call(batches.claim) is None  # it has not ended
    batch = ended(desk)
    assert batch.state is BatchState.FINALIZING
    assert desk.call(batches.claim) == (batch, 1)
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
    # it is forgotten with its job
    monkeypatch.setattr(jobs, "MAX_TENANT_JOBS", 2)
    desk.call(jobs.tidied, batch.job.id)
    desk.submitted()
    with pytest.raises(JobNotFound):
        desk.call(batches.get, batch.job.id)
    assert [each.job.id for each in desk.call(batches.page, None, None, 10)] == [running.job.id]


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
