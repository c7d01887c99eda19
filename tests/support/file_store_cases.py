"""What a store does with uploaded files, whichever database it is; the tests that import these have the fixture `desk`."""

from __future__ import annotations

from typing import Any

import pytest
from job_desk import NOW_S, PINNED, Desk

from capamesh.protocol.errors import FileConflict, FileNotFound, StorageFull, TooManyRequests
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import file_operations as files
from capamesh.router.jobs.store import job_operations as jobs
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
from capamesh.router.jobs.values import Job, JobId

MOST_BYTES = 30
REQUESTS = Requests(3, "/v1/embeddings", "words")


def begun(
    desk: Desk,
    name: str = "a",
    tenant: str = "acme",
    size: int = 10,
    keep_s: float = DAY_S,
    site: str = "",
    most: int = 1000,
) -> StoredFile:
    return desk.call(
        files.begin,
        FileId(f"file-{name}"),
        Owner(tenant, site),
        "in.jsonl",
        Purpose.BATCH,
        size,
        keep_s,
        most,
    )


def whole(desk: Desk, name: str = "a", tenant: str = "acme", **changed: Any) -> StoredFile:
    file = begun(desk, name, tenant)
    about = {"purpose": Purpose.BATCH, "keep_s": DAY_S, "size_bytes": 12, "sha256": "ab"}
    return desk.call(files.finish, file.id, Whole(**{**about, "requests": REQUESTS, **changed}))


def reading(desk: Desk, file: StoredFile, tenant: str = "acme") -> Job:
    """Return a job of a tenant that reads a file."""
    source = InputSpec(f"upload:{file.id}", InputFormat.JSONL, {"x": ("pixels",)})
    spec = JobSpec("digits", source, OutputSpec("/data/out"))
    job, _ = desk.call(jobs.submit, JobId(f"job-{file.id}"), tenant, spec, PINNED)
    return job


def test_file_is_kept_from_its_beginning_to_its_end(desk: Desk) -> None:
    file = begun(desk)
    assert file == StoredFile(
        FileId("file-a"),
        "acme",
        "in.jsonl",
        Purpose.BATCH,
        False,
        10,
        NOW_S,
        NOW_S + ARRIVAL_S,
        DAY_S,
    )
    desk.clock.now_s += 5
    desk.call(files.reserve, file.id, 20, MOST_BYTES)
    arriving = desk.call(files.get, file.id, "acme")
    assert (arriving.size_bytes, arriving.expires_s) == (20, NOW_S + 5 + ARRIVAL_S)
    about = Whole(Purpose.USER_DATA, 2 * DAY_S, 12, "ab", REQUESTS)
    done = desk.call(files.finish, file.id, about)
    assert (done.is_ready, done.size_bytes, done.sha256) == (True, 12, "ab")
    assert (done.purpose, done.requests) == (Purpose.USER_DATA, REQUESTS)
    assert done.expires_s == NOW_S + 2 * DAY_S
    again = desk.call(files.finish, file.id, Whole(Purpose.BATCH, 1.0, 1, "cd"))
    assert again == done


def test_file_of_another_tenant_is_not_found(desk: Desk) -> None:
    file = whole(desk)
    for asked in (
        lambda turn: files.get(turn, file.id, "other"),
        lambda turn: files.remove(turn, file.id, "other"),
        lambda turn: files.get(turn, FileId("file-none"), "acme"),
        lambda turn: files.reserve(turn, FileId("file-none"), 5, MOST_BYTES),
        lambda turn: files.finish(turn, FileId("file-none"), Whole(Purpose.BATCH, 1.0, 1, "")),
    ):
        with pytest.raises(FileNotFound):
            desk.run(asked)
    assert desk.call(files.page, "other", "", None, 10) == []
    assert desk.call(files.get, file.id) == file


def test_files_that_are_whole_are_listed_page_by_page(desk: Desk) -> None:
    made = [whole(desk, name).id for name in "abcd"]
    data = whole(desk, "e", purpose=Purpose.USER_DATA).id
    begun(desk, "f")
    theirs = whole(desk, "g", "other").id

    def page(tenant: str | None, last: str | None = None, **options: Any) -> list[str]:
        found = desk.call(
            files.page,
            tenant,
            options.pop("purpose", ""),
            last,
            options.pop("count", 10),
            **options,
        )
        return [each.id for each in found]

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
    first = begun(desk, most=MOST_BYTES)
    begun(desk, "b", most=MOST_BYTES)
    with pytest.raises(TooManyRequests, match="have 2 files"):
        begun(desk, "c", most=MOST_BYTES)
    begun(desk, "d", "other", most=MOST_BYTES)
    with pytest.raises(
        StorageFull, match="20 bytes of files here, and 11 more are over the 30 that"
    ):
        desk.call(files.reserve, first.id, 21, MOST_BYTES)
    desk.call(files.reserve, first.id, 20, MOST_BYTES)
    desk.call(files.remove, first.id)
    begun(desk, "c", size=20, most=MOST_BYTES)
    monkeypatch.setattr(files, "MAX_FILES", 3)
    with pytest.raises(TooManyRequests, match="the store has 3 files"):
        begun(desk, "e", "third", most=MOST_BYTES)


def test_files_of_clients_without_keys_count_to_their_address_whatever_tenant_they_name(
    desk: Desk,
) -> None:
    here, elsewhere = "here", "elsewhere"
    first = begun(desk, "a", "acme", site=here, most=MOST_BYTES)
    begun(desk, "b", "other", size=20, site=here, most=MOST_BYTES)
    with pytest.raises(StorageFull, match="clients of the address here have 30 bytes"):
        begun(desk, "c", "third", size=1, site=here, most=MOST_BYTES)
    with pytest.raises(StorageFull, match="address here"):
        desk.call(files.reserve, first.id, 11, MOST_BYTES)
    begun(desk, "d", "acme", size=30, site=elsewhere, most=MOST_BYTES)
    desk.call(files.remove, first.id)
    begun(desk, "e", "third", site=here, most=MOST_BYTES)


def test_file_that_a_job_under_way_reads_is_not_deleted(desk: Desk) -> None:
    file, other = whole(desk), whole(desk, "ab")
    job = reading(desk, file)
    with pytest.raises(FileConflict, match=job.id):
        desk.call(files.remove, file.id, "acme")
    desk.call(files.remove, other.id, "acme")
    desk.call(jobs.move, job.id, JobState.CANCELLED)
    assert desk.call(files.remove, file.id, "acme") == file
    with pytest.raises(FileNotFound):
        desk.call(files.remove, file.id, "acme")


def test_job_of_another_tenant_holds_no_file(desk: Desk) -> None:
    file = whole(desk)
    reading(desk, file, "other")
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
    desk.call(jobs.move, job.id, JobState.CANCELLED)
    assert desk.call(files.expire, None) == ([(read.id, "acme")], None)
    assert desk.call(files.known, [read.id, gone.id, stays.id]) == {stays.id}
    assert desk.call(files.known, []) == set()
