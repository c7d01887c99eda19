"""What a store of jobs does: on SQLite here; the integration tests have these on PostgreSQL, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from job_desk import NOW_S, PINNED, Desk, manifest, ranges, spec_with
from sqlalchemy import event, select

from capamesh.protocol.errors import KeyUsed, TooManyRequests
from capamesh.router.jobs.errors import JobConflict, JobNotFound
from capamesh.router.jobs.spec import FailurePolicy
from capamesh.router.jobs.states import UNDER_WAY, JobState
from capamesh.router.jobs.store import job_operations as jobs
from capamesh.router.jobs.store import lease_operations as leasing
from capamesh.router.jobs.store import plan_operations as plans
from capamesh.router.jobs.store import shard_operations as shards
from capamesh.router.jobs.store.group_commit import run_group
from capamesh.router.jobs.store.lease_operations import Claim
from capamesh.router.jobs.store.price_operations import keep_price
from capamesh.router.jobs.store.shown_operations import look
from capamesh.router.jobs.store.state_operations import FIRST, OVERLAP_S, look_at_states, some
from capamesh.router.jobs.store.tables import PRICES
from capamesh.router.jobs.values import (
    LEASE_S,
    BadRow,
    Counts,
    Job,
    JobId,
    Lease,
    Paid,
    Price,
    RowRange,
)


def kinds(desk: Desk, job: Job) -> list[str]:
    return [each.kind for each in desk.call(jobs.events, job.id, 0, 100)]


def seqs(leases: list[Lease]) -> list[int]:
    return [each.seq for each in leases]


def results_of(desk: Desk, *operations: Any) -> tuple[list[Any], list[str]]:
    """Run operations in one transaction; return what each gives, and the statements that it took."""
    group = [desk.waiting(each) for each in operations]
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(desk.database.engine, "before_cursor_execute", note)
    run_group(desk.database, group)
    event.remove(desk.database.engine, "before_cursor_execute", note)
    return [each.future.result(0) for each in group], statements


# jobs


def test_job_is_kept_as_it_was_submitted_and_is_its_tenants_alone(desk: Desk) -> None:
    spec = spec_with("key", deadline_s=NOW_S + 60)
    job = desk.submitted(spec)
    assert (job.tenant, job.spec, job.pinned) == ("acme", spec, PINNED)
    assert (job.state, job.created_s, job.ended_s) == (JobState.PLANNING, NOW_S, None)
    assert desk.call(jobs.get, job.id, "acme") == desk.now(job) == job
    for asked in (
        lambda turn: jobs.get(turn, job.id, "other"),
        lambda turn: jobs.move(turn, job.id, JobState.CANCELLED, "", "other"),
        lambda turn: jobs.resume(turn, job.id, "other"),
        lambda turn: jobs.get(turn, JobId("job-none"), "acme"),
    ):
        with pytest.raises(JobNotFound):
            desk.run(asked)
    assert desk.now(job) == job


def test_client_key_names_one_job_of_a_tenant(desk: Desk) -> None:
    first, is_new = desk.call(jobs.submit, JobId("job-a"), "acme", spec_with("key"), PINNED)
    again, is_new_again = desk.call(jobs.submit, JobId("job-b"), "acme", spec_with("key"), PINNED)
    other, _ = desk.call(jobs.submit, JobId("job-c"), "other", spec_with("key"), PINNED)
    assert (is_new, is_new_again, again, other.id) == (True, False, first, "job-c")
    with pytest.raises(KeyUsed, match="job-a"):
        desk.call(jobs.submit, JobId("job-d"), "acme", spec_with("key", deadline_s=NOW_S), PINNED)
    assert len({desk.submitted().id, desk.submitted().id}) == 2  # without one


def test_tenant_has_no_more_jobs_than_it_may_and_the_oldest_that_ended_is_forgotten(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "MAX_UNDER_WAY", 2)
        first, second = desk.planned(), desk.planned()
        with pytest.raises(TooManyRequests, match="2 jobs of this tenant"):
            desk.submitted()
        desk.submitted(tenant="other")
        desk.move(first, JobState.CANCELLED)
        third = desk.submitted()
    monkeypatch.setattr(jobs, "MAX_TENANT_JOBS", 3)
    with pytest.raises(TooManyRequests):  # its folder may have garbage that no one would remove
        desk.submitted()
    desk.call(jobs.tidied, first.id)
    fourth = desk.submitted()
    found = desk.call(jobs.page, "acme", None, 100)
    assert [each.id for each in found] == [fourth.id, third.id, second.id]
    assert (desk.call(jobs.counts, first.id), kinds(desk, first)) == (Counts(), [])
    with pytest.raises(TooManyRequests, match="none of this tenant's has ended"):
        desk.submitted()


def test_jobs_are_read_page_by_page_and_some_at_once(desk: Desk) -> None:
    mine = [desk.submitted() for _ in range(5)]
    theirs = desk.submitted(tenant="other")
    first = desk.call(jobs.page, "acme", None, 3)
    rest = desk.call(jobs.page, "acme", first[-1].id, 3)
    assert [*first, *rest] == mine[::-1]
    assert desk.call(jobs.page, None, None, 2) == [theirs, mine[-1]]
    found = desk.call(some, [mine[2].id, JobId("job-none"), mine[0].id])
    assert sorted(found, key=lambda each: each.id) == [mine[0], mine[2]]


def test_all_jobs_under_way_are_looked_at_page_by_page(desk: Desk) -> None:
    made = [desk.submitted(tenant=tenant) for tenant in ("b", "a", "b", "a", "c")]
    desk.move(made[1], JobState.CANCELLED)
    last, found = FIRST, []
    for left in (2, 2, 0):
        seen = desk.call(look_at_states, NOW_S + 60, last, 2)
        assert len(seen.page) == left
        last, found = seen.last, [*found, *seen.page]
    assert found == [(made[at].id, JobState.PLANNING) for at in (3, 0, 2, 4)]
    assert desk.call(look_at_states, NOW_S + 60, last, 2).last == last


def test_look_tells_the_jobs_whose_state_changed_since_the_one_before(desk: Desk) -> None:
    old, ended, running = desk.planned(1), desk.planned(1), desk.planned(1)
    desk.clock.now_s += 60
    seen = desk.call(look_at_states, desk.clock.now_s, FIRST, 0)
    assert (seen.now_s, seen.changed) == (desk.clock.now_s, [])
    desk.move(ended, JobState.CANCELLED)
    desk.move(running, JobState.PAUSED)
    changes = {(ended.id, JobState.CANCELLED), (running.id, JobState.PAUSED)}
    # a transaction may have begun before the last look, and have ended after it
    for later_s in (0.0, OVERLAP_S, 0.1):
        desk.clock.now_s += later_s
        seen = desk.call(look_at_states, seen.now_s, FIRST, 0)
        assert set(seen.changed) == changes
    assert desk.call(look_at_states, desk.clock.now_s, FIRST, 0).changed == []
    desk.clock.now_s -= 3600  # the clock is set back
    desk.move(old, JobState.PAUSED)
    assert (old.id, JobState.PAUSED) in desk.call(look_at_states, seen.now_s, FIRST, 0).changed


def test_states_follow_the_table_and_leave_events(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.submitted()
    with pytest.raises(JobConflict, match="planning"):
        desk.call(jobs.resume, job.id)
    desk.move(job, JobState.CANCELLED)
    job = desk.planned()
    assert desk.call(jobs.resume, job.id).state is JobState.RUNNING
    desk.move(job, JobState.BLOCKED, "no node has the model")
    assert desk.now(job).reason == "no node has the model"
    assert desk.call(jobs.resume, job.id).state is JobState.BLOCKED  # it was not paused
    desk.move(job, JobState.PAUSED)
    desk.call(jobs.resume, job.id, "acme")
    desk.clock.now_s += 5
    assert desk.call(jobs.untidy, 10) != [job]
    ended = desk.move(job, JobState.CANCELLED)
    assert (ended.state, ended.ended_s) == (JobState.CANCELLED, NOW_S + 5)
    assert desk.move(job, JobState.CANCELLED) == ended
    for to in (JobState.RUNNING, JobState.PAUSED, JobState.EXPIRED):
        with pytest.raises(JobConflict, match="is cancelled"):
            desk.move(job, to)
    told = ["submitted", "planned", "running", "blocked", "paused", "running", "cancelled"]
    assert kinds(desk, job) == told
    monkeypatch.setattr(jobs, "MAX_EVENTS", 3)
    for at in range(4):
        desk.call(jobs.note, job.id, "told", str(at))
    found = desk.call(jobs.events, job.id, 0, 100)
    assert [(each.seq, each.text) for each in found] == [(9, "1"), (10, "2"), (11, "3")]
    assert [each.seq for each in desk.call(jobs.events, job.id, 10, 100)] == [11]
    desk.call(jobs.note, JobId("job-none"), "told", "nothing happens")


def test_jobs_expire_at_their_deadline_and_are_untidy_until_their_garbage_is_removed(
    desk: Desk,
) -> None:
    late = desk.planned(spec=spec_with(deadline_s=NOW_S + 10))
    paused = desk.planned(spec=spec_with(deadline_s=NOW_S + 10))
    desk.move(paused, JobState.PAUSED)
    other, for_ever = desk.planned(spec=spec_with(deadline_s=NOW_S + 11)), desk.planned()
    desk.clock.now_s += 9.9
    assert desk.call(jobs.expire) == desk.call(jobs.untidy, 10) == []
    desk.clock.now_s += 0.1
    assert desk.call(jobs.expire) == [late.id, paused.id]
    assert desk.call(jobs.expire) == []
    states = [desk.now(each).state for each in (late, paused, other, for_ever)]
    assert states == [JobState.EXPIRED, JobState.EXPIRED, JobState.RUNNING, JobState.RUNNING]
    assert [each.id for each in desk.call(jobs.untidy, 10)] == [late.id, paused.id]
    desk.call(jobs.tidied, late.id)
    assert [each.id for each in desk.call(jobs.untidy, 10)] == [paused.id]


# plans


def test_plan_is_leased_to_one_router_the_oldest_job_first(desk: Desk) -> None:
    made = [desk.submitted(), desk.submitted()]
    taken = [desk.call(plans.claim_plan, owner) for owner in "abc"]
    assert [each and (each[0].id, each[1]) for each in taken] == [
        *((job.id, 1) for job in made),
        None,
    ]


def test_plan_of_a_dead_router_is_made_anew_by_another(desk: Desk) -> None:
    job = desk.submitted()
    assert desk.call(plans.claim_plan, "a")
    for _ in range(3):  # it is kept by renewing it
        desk.clock.now_s += LEASE_S - 1
        assert desk.call(plans.renew_plan, job.id, 1)
    assert desk.call(plans.add_shards, job.id, 1, 0, ranges(2))
    desk.clock.now_s += LEASE_S - 0.1
    assert desk.call(plans.claim_plan, "b") is None
    desk.clock.now_s += 0.1
    taken = desk.call(plans.claim_plan, "b")
    assert taken is not None
    assert taken[1] == 2
    # the first one wakes: nothing of it is taken
    assert not desk.call(plans.add_shards, job.id, 1, 2, ranges(2))
    assert not desk.call(plans.renew_plan, job.id, 1)
    assert desk.call(plans.finish_plan, job.id, 1, "old") is None
    assert desk.call(plans.fail_plan, job.id, 1, "old") is None
    for _ in range(2):  # shards that are added again are there once
        assert desk.call(plans.add_shards, job.id, 2, 0, ranges(2, rows=4))
        assert desk.call(plans.add_shards, job.id, 2, 2, ranges(3, rows=4)[2:])
    done = desk.call(plans.finish_plan, job.id, 2, "new")
    assert done is not None
    seen = (done.state, done.rows, done.shards, done.fingerprint)
    assert seen == (JobState.RUNNING, 12, 3, "new")
    empty = desk.planned(0)
    assert desk.call(jobs.finish, empty.id).state is JobState.COMPLETED


def test_plan_of_an_ended_job_goes_no_further(desk: Desk) -> None:
    job = desk.submitted()
    desk.call(plans.claim_plan, "a")
    desk.move(job, JobState.CANCELLED)
    assert not desk.call(plans.add_shards, job.id, 1, 0, ranges(2))
    assert desk.call(plans.finish_plan, job.id, 1, "f") is None


def test_job_fails_whose_plan_is_begun_again_and_again_cannot_be_made_or_ends_its_readers(
    desk: Desk,
) -> None:
    endless = desk.submitted()
    for token in range(1, plans.MAX_PLANS + 1):
        taken = desk.call(plans.claim_plan, "a")
        assert taken is not None
        assert taken[1] == token
        desk.clock.now_s += LEASE_S
    assert desk.call(plans.claim_plan, "a") is None
    wrong = desk.submitted()
    desk.call(plans.claim_plan, "a")
    desk.call(plans.fail_plan, wrong.id, 1, "row 7 is no JSON")
    deadly = desk.submitted()
    for at in range(2):
        job, token = desk.call(plans.claim_plan, f"router {at}") or pytest.fail("no plan")
        lost = desk.call(plans.lose_plan, job.id, token, "all memory")
        assert (lost is None) == (at == 0)
    found = [desk.now(each) for each in (endless, wrong, deadly)]
    assert {each.state for each in found} == {JobState.FAILED}
    assert "begun 3 times" in found[0].reason
    assert [each.reason for each in found[1:]] == ["row 7 is no JSON", "all memory"]


# leases


def test_shards_are_leased_in_order_with_their_rows_and_no_more_than_asked(desk: Desk) -> None:
    rows = [RowRange(0, 10, 2, 5, 70, b"d" * 32), RowRange(10, 3, 3, 0, 21)]
    job = desk.planned(rows)
    first, second = desk.claim(job, "a", 5)
    assert [first.range, second.range] == rows
    told = (first.seq, first.token, first.until_s, first.is_second)
    assert told == (0, 1, NOW_S + LEASE_S, False)
    assert desk.claim(job, "b", 5) == []
    large = desk.planned(leasing.MAX_CLAIM + 10)
    assert seqs(desk.claim(large, count=2)) == [0, 1]
    assert len(desk.claim(large, count=10**6)) == leasing.MAX_CLAIM
    assert desk.claim(large, count=0) == []


def test_claims_that_wait_together_are_one_statement_and_share_no_shard(desk: Desk) -> None:
    one, other = desk.planned(7), desk.planned(3)
    found, statements = results_of(
        desk,
        Claim(one.id, one.spec, "a", 2),
        Claim(other.id, other.spec, "a", 1),
        Claim(one.id, one.spec, "a", 1),
        Claim(one.id, one.spec, "b", 3),
        Claim(one.id, one.spec, "a", 3),
    )
    assert len([each for each in statements if "UPDATE shard" in each]) == 3
    # those of one router and job are served in their order, all before the next
    assert list(map(seqs, found)) == [[0, 1], [0], [2], [6], [3, 4, 5]]
    most = leasing.MAX_CLAIM
    large = desk.planned(3 * most)
    counts = (most - 1, 2, 10**6, 1, 0)
    found, _ = results_of(desk, *(Claim(large.id, large.spec, "a", count) for count in counts))
    assert [len(each) for each in found] == [most - 1, 2, most, 1, 0]
    taken = [lease.seq for each in found for lease in each]
    assert taken == list(range(len(taken)))


def test_shards_are_leased_only_while_the_job_runs(desk: Desk) -> None:
    for state in UNDER_WAY - {JobState.RUNNING, JobState.PLANNING}:
        job = desk.planned()
        desk.move(job, state)
        assert desk.claim(job) == []


def test_lease_that_ended_is_taken_over_before_shards_that_no_router_had(desk: Desk) -> None:
    job = desk.planned(4)
    lost = desk.one(job)
    desk.clock.now_s += 1
    later = desk.one(job)
    desk.clock.now_s += LEASE_S - 1.1
    assert desk.one(job, "b").seq == 2
    desk.clock.now_s += 0.1
    taken = desk.one(job, "b")
    assert (taken.seq, taken.token) == (lost.seq, 2)
    desk.clock.now_s += 1
    taken = desk.one(job, "b")
    assert (taken.seq, taken.token) == (later.seq, 2)


def test_leases_that_ended_alone_are_told_and_taken_over(desk: Desk) -> None:
    first, second, other = desk.planned(3), desk.planned(2), desk.planned(1)

    def take_over(job: Job, owner: str, count: int) -> list[Lease]:
        return desk.call(leasing.take_over, job.id, job.spec, owner, count)

    desk.claim(second)
    desk.clock.now_s += 1
    desk.claim(first, count=2)
    desk.claim(other)
    desk.clock.now_s += LEASE_S - 1
    assert desk.call(leasing.ended) == [second.id]
    desk.clock.now_s += 1
    assert desk.call(leasing.ended)[0] == second.id  # the longest ago
    desk.move(other, JobState.PAUSED)
    assert sorted(desk.call(leasing.ended)) == [first.id, second.id]
    (taken,) = take_over(second, "b", 5)
    assert (taken.seq, taken.token, taken.is_second) == (0, 2, False)
    assert seqs(take_over(first, "b", 1)) == [0]
    assert desk.call(leasing.ended) == [first.id]
    assert seqs(take_over(first, "c", 9)) == [1]
    assert desk.call(leasing.ended) == take_over(first, "b", 5) == []
    assert desk.one(first, "b").seq == 2  # no router had the third shard


def test_jobs_with_leases_that_ended_are_told_some_at_a_time(desk: Desk) -> None:
    most = leasing.MAX_ENDED
    large, small = desk.planned(most), desk.planned(1)
    for _ in range(0, most, leasing.MAX_CLAIM):
        desk.claim(large, count=leasing.MAX_CLAIM)
    desk.clock.now_s += 1
    desk.claim(small)
    desk.clock.now_s += LEASE_S
    assert desk.call(leasing.ended) == [large.id]
    desk.call(leasing.take_over, large.id, large.spec, "b", 1)
    assert desk.call(leasing.ended) == [large.id, small.id]


@pytest.mark.parametrize(
    "takes",
    [
        lambda desk, job: desk.call(leasing.take_over, job.id, job.spec, "b", 2),
        lambda desk, job: desk.claim(job, "b"),
        lambda desk, job: [
            lease
            for leases in results_of(desk, *[Claim(job.id, job.spec, "b", 1)] * 2)[0]
            for lease in leases
        ],
    ],
)
def test_lease_that_ended_too_often_fails_the_job_when_it_is_taken_over(
    desk: Desk, takes: Callable[[Desk, Job], list[Lease]]
) -> None:
    job = desk.planned(3, spec_with(failure=FailurePolicy(most_failures=1)))
    desk.claim(job, count=2)
    desk.clock.now_s += LEASE_S
    assert takes(desk, job) == []
    assert desk.now(job).state is JobState.FAILED
    assert desk.call(leasing.ended) == []


def test_lease_is_kept_by_renewing_it_until_it_is_taken_over(desk: Desk) -> None:
    job = desk.planned(1)
    old = desk.one(job)
    for _ in range(5):
        desk.clock.now_s += LEASE_S - 1
        (old,) = desk.renew(old)
        assert old.until_s == desk.clock.now_s + LEASE_S
    assert desk.claim(job, "b") == []
    desk.clock.now_s += LEASE_S
    new = desk.one(job, "b")
    assert desk.renew(old) == []
    assert not desk.release(job, old)
    assert [each.token for each in desk.renew(old, new)] == [new.token]
    # the router of the old one may have been frozen, and wake
    assert not desk.commit(job, old)
    assert desk.commit(job, new)
    assert not desk.commit(job, old)
    ((_, _, kept),) = desk.call(shards.manifests, job.id, 0, 10)
    assert kept == manifest(new)


def test_lease_given_back_is_free_at_once_and_counts_as_no_failure(desk: Desk) -> None:
    job = desk.planned(2, spec_with(failure=FailurePolicy(most_failures=1)))
    for token in range(1, 6):
        lease = desk.one(job, "ab"[token % 2])
        assert (lease.seq, lease.token) == (0, token)
        assert desk.release(job, lease)
        assert not desk.release(job, lease)
        assert not desk.commit(job, lease)
        desk.clock.now_s += LEASE_S
        assert desk.call(leasing.ended) == []  # no router is gone
    desk.release(job, desk.one(job), "it broke")
    assert desk.now(job).reason == "shard 0 failed 1 times: it broke"


@pytest.mark.parametrize("is_second_back", [False, True])
def test_lease_given_back_leaves_the_other_one_of_its_shard(
    desk: Desk, is_second_back: bool
) -> None:
    job = desk.planned(1)
    first = desk.one(job)
    desk.clock.now_s += 10
    second = desk.one(job, "b", may_be_second=True)
    back, kept = (second, first) if is_second_back else (first, second)
    assert desk.release(job, back)
    assert desk.renew(first, second)[0].token == kept.token
    assert not desk.commit(job, back)
    assert desk.commit(job, kept)


def test_clock_that_was_set_back_does_not_lock_shards_up(desk: Desk) -> None:
    job = desk.planned(1)
    desk.claim(job)
    desk.clock.now_s -= 3600
    assert desk.one(job, "b").token == 2


def test_slow_shards_are_leased_twice_the_longest_held_first(desk: Desk) -> None:
    job = desk.planned(2)
    slow = desk.one(job)
    desk.clock.now_s += 1
    desk.claim(job, "b")
    assert desk.claim(job, "b") == []
    desk.clock.now_s += 1
    (slow,) = desk.renew(slow)
    second = desk.one(job, "b", may_be_second=True)
    assert (second.seq, second.token, second.is_second) == (0, 2, True)
    assert seqs(desk.claim(job, "c", 5, may_be_second=True)) == [1]
    assert desk.claim(job, "d", 5, may_be_second=True) == []
    # both hold, and the first manifest counts
    assert len(desk.renew(slow, second)) == 2
    assert desk.commit(job, slow)
    assert not desk.commit(job, second)
    assert desk.renew(slow, second) == []


def test_second_lease_holds_when_the_first_is_taken_over(desk: Desk) -> None:
    job = desk.planned(1)
    first = desk.one(job)
    desk.clock.now_s += 10
    second = desk.one(job, "b", may_be_second=True)
    desk.clock.now_s += 5
    third = desk.one(job, "c")
    assert (second.token, third.token) == (2, 3)
    assert [desk.commit(job, each) for each in (first, second, third)] == [False, True, False]


# manifests


def test_manifests_are_taken_once_and_make_the_counts(desk: Desk) -> None:
    job = desk.planned(3)
    first, second = desk.claim(job, count=2)
    bad = [BadRow(13, "r13", "invalid_request", "no", "node")]
    for _ in range(2):
        assert desk.commit(job, second, bad=1, rows=bad)
    assert desk.call(jobs.counts, job.id) == Counts(3, 1, 1, 9, 1)
    assert desk.call(shards.bad_rows, job.id, -1, 10) == bad
    assert desk.commit(job, first)
    third = desk.one(job)
    assert desk.call(jobs.finish, job.id).state is JobState.RUNNING
    assert desk.commit(job, third)
    done = desk.call(jobs.finish, job.id)
    assert (done.state, done.counts) == (JobState.COMPLETED, Counts(3, 3, 0, 29, 1))
    assert desk.call(jobs.finish, job.id) == done
    found = desk.call(shards.manifests, job.id, 1, 10)
    assert [(seq, rows.first_row, kept) for seq, rows, kept in found] == [
        (1, 10, manifest(second, bad=1)),
        (2, 20, manifest(third)),
    ]


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.BLOCKED])
def test_shard_that_was_leased_before_a_pause_is_committed_in_it(
    desk: Desk, state: JobState
) -> None:
    job = desk.planned(1)
    lease = desk.one(job)
    desk.move(job, state)
    assert desk.renew(lease)
    assert desk.commit(job, lease)
    assert desk.call(jobs.finish, job.id).state is JobState.COMPLETED


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED])
def test_ended_job_takes_no_results_and_keeps_those_it_had(desk: Desk, state: JobState) -> None:
    job = desk.planned(2)
    first, second = desk.claim(job, count=2)
    assert desk.commit(job, first)
    assert desk.move(job, state).counts == Counts(2, 1, 0, 10, 0)
    assert not desk.commit(job, second)
    assert desk.renew(second) == []
    assert desk.commit(job, first)
    assert len(desk.call(shards.manifests, job.id, 0, 10)) == 1


def test_bad_rows_are_kept_up_to_a_number_and_all_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_BAD_ROWS", 3)
    job = desk.planned(2)
    for lease in desk.claim(job, count=2):
        rows = [BadRow(lease.range.first_row + at, "r", "c", "t" * 9999) for at in range(2)]
        assert desk.commit(job, lease, bad=2, rows=rows)
    kept = desk.call(shards.bad_rows, job.id, -1, 10)
    assert [(each.row, len(each.text)) for each in kept] == [(0, 500), (1, 500), (10, 500)]
    assert [each.row for each in desk.call(shards.bad_rows, job.id, 0, 1)] == [1]
    assert desk.call(jobs.counts, job.id).bad_rows == 4


def test_job_fails_when_it_has_more_bad_rows_than_it_bears(desk: Desk) -> None:
    job = desk.planned(3, spec_with(failure=FailurePolicy(most_bad_rows=2)))
    first, second, third = desk.claim(job, count=3)
    assert desk.commit(job, first, bad=2)
    assert desk.now(job).state is JobState.RUNNING
    assert desk.commit(job, second, bad=1)
    failed = desk.now(job)
    assert (failed.state, failed.counts) == (JobState.FAILED, Counts(3, 2, 0, 17, 3))
    assert not desk.commit(job, third)


def test_job_fails_when_a_shard_has_failed_too_often(desk: Desk) -> None:
    job = desk.planned(2, spec_with(failure=FailurePolicy(most_failures=3)))
    for at in range(2):
        lease = desk.one(job)
        assert lease.seq == 0
        assert desk.release(job, lease, f"disk {at}")
    assert kinds(desk, job)[-2:] == ["shard_failed", "shard_failed"]
    desk.one(job)
    desk.clock.now_s += LEASE_S
    assert desk.claim(job, "b") == []
    failed = desk.now(job)
    assert failed.state is JobState.FAILED
    assert failed.reason.startswith("shard 0 failed 3 times")


def test_shard_that_ends_its_readers_twice_fails_its_job_whoever_read_it(desk: Desk) -> None:
    job = desk.planned(2)
    for lease in desk.claim(job, count=2):
        assert desk.release(job, lease, "all memory", has_ended_reader=True)
    assert desk.now(job).state is JobState.RUNNING  # each of them once
    again, _ = desk.claim(job, "another router", 2)
    assert desk.release(job, again, "all memory", has_ended_reader=True)
    failed = desk.now(job)
    assert (failed.state, failed.reason) == (JobState.FAILED, "rows 0 to 9: all memory")


# prices


def paid(job: Job, owner: str, rows: int, total: float) -> Paid:
    return Paid(job.id, owner, Price(rows, total))


def test_price_is_the_last_sum_of_each_process_that_ran_rows(desk: Desk) -> None:
    first, second, none = desk.submitted(), desk.submitted(), desk.submitted()
    for job, owner, rows, total in (
        (first, "a", 10, 0.5),
        (first, "b", 30, 2.5),
        (second, "a", 7, 0.0),
        (first, "a", 20, 1.0),  # all that it has paid, not what came since
        (first, "a", 20, 1.0),  # again, and late
        (first, "a", 10, 0.5),
    ):
        desk.call(keep_price, paid(job, owner, rows, total))
    found = [desk.now(each).price for each in (second, none, first)]
    assert found == [Price(7, 0.0), Price(), Price(50, 3.5)]
    assert [each.per_million for each in found] == [0.0, None, 70_000.0]
    listed = desk.call(jobs.page, None, None, 10)
    assert [each.price for each in listed] == [found[1], found[0], found[2]]


@pytest.mark.parametrize("is_first", [True, False])
def test_commit_keeps_the_price_whoever_was_first(desk: Desk, is_first: bool) -> None:
    job = desk.planned(1)
    lease = desk.one(job)
    if not is_first:
        desk.clock.now_s += 60
        assert desk.commit(job, desk.one(job, "b"))
        desk.call(jobs.finish, job.id)
    for _ in range(2):  # the answer may have been lost
        assert desk.commit(job, lease, paid=paid(job, "a", 10, 0.1)) is is_first
    assert desk.now(job).price == Price(10, 0.1)


def test_commits_of_one_transaction_keep_the_last_sum_at_its_end(desk: Desk) -> None:
    job = desk.planned(3)
    found, statements = results_of(
        desk,
        *(
            lambda turn, at=at, lease=lease: shards.commit(
                turn, lease, job.spec, manifest(lease), (), paid(job, "a", at, at / 10)
            )
            for at, lease in enumerate(desk.claim(job, count=3), 1)
        ),
    )
    assert found == [True, True, True]
    assert len([each for each in statements if "UPDATE price" in each]) == 1
    assert desk.now(job).price == Price(3, 0.3)


def test_price_of_calls_that_end_after_their_job_is_added_and_goes_with_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.planned(1)
    desk.call(keep_price, paid(job, "a", 10, 1.0))
    assert desk.move(job, JobState.CANCELLED).price == Price(10, 1.0)
    desk.call(keep_price, paid(job, "a", 18, 1.8))
    desk.call(keep_price, paid(job, "b", 2, 0.2))
    assert desk.call(look, job.id, None, 0).job.price == Price(20, 2.0)
    monkeypatch.setattr(jobs, "MAX_TENANT_JOBS", 1)
    desk.call(jobs.tidied, job.id)
    desk.submitted()
    desk.call(keep_price, paid(job, "b", 10, 1.0))  # one that is late
    with desk.database.engine.connect() as connection:
        assert connection.execute(select(PRICES)).all() == []
