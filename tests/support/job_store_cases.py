"""What a store of jobs does, whichever database it is; the tests that import these have the fixture `desk`."""

from __future__ import annotations

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
    JobId,
    Paid,
    Price,
    RowRange,
)


def kinds(desk: Desk, job: JobId) -> list[str]:
    return [each.kind for each in desk.call(jobs.events, job, 0, 100)]


# jobs


def test_job_is_kept_as_it_was_submitted(desk: Desk) -> None:
    spec = spec_with("key", deadline_s=NOW_S + 60)
    job = desk.submitted(spec)
    assert (job.tenant, job.spec, job.pinned) == ("acme", spec, PINNED)
    assert (job.state, job.created_s, job.ended_s) == (JobState.PLANNING, NOW_S, None)
    assert desk.call(jobs.get, job.id, "acme") == job
    assert desk.call(jobs.get, job.id) == job


def test_job_of_another_tenant_is_not_found(desk: Desk) -> None:
    job = desk.submitted()
    for asked in (
        lambda turn: jobs.get(turn, job.id, "other"),
        lambda turn: jobs.move(turn, job.id, JobState.CANCELLED, "", "other"),
        lambda turn: jobs.resume(turn, job.id, "other"),
        lambda turn: jobs.get(turn, JobId("job-none"), "acme"),
    ):
        with pytest.raises(JobNotFound):
            desk.run(asked)
    assert desk.call(jobs.get, job.id).state is JobState.PLANNING


def test_client_key_names_one_job_of_a_tenant(desk: Desk) -> None:
    first, is_new = desk.call(jobs.submit, JobId("job-a"), "acme", spec_with("key"), PINNED)
    again, is_new_again = desk.call(jobs.submit, JobId("job-b"), "acme", spec_with("key"), PINNED)
    other, _ = desk.call(jobs.submit, JobId("job-c"), "other", spec_with("key"), PINNED)
    assert (is_new, is_new_again) == (True, False)
    assert again == first
    assert other.id == "job-c"
    with pytest.raises(KeyUsed, match="job-a"):
        desk.call(jobs.submit, JobId("job-d"), "acme", spec_with("key", deadline_s=NOW_S), PINNED)


def test_jobs_without_a_client_key_are_all_different(desk: Desk) -> None:
    assert len({desk.submitted().id, desk.submitted().id}) == 2


def test_tenant_has_no_more_jobs_under_way_than_it_may(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_UNDER_WAY", 2)
    first = desk.submitted()
    desk.submitted()
    with pytest.raises(TooManyRequests, match="2 jobs of this tenant"):
        desk.submitted()
    desk.submitted(tenant="other")
    desk.call(jobs.move, first.id, JobState.CANCELLED)
    desk.submitted()


def test_oldest_job_that_ended_is_forgotten_for_a_new_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_TENANT_JOBS", 2)
    first, second = desk.planned(), desk.planned()
    with pytest.raises(TooManyRequests, match="none of this tenant's has ended"):
        desk.submitted()
    for each in (second, first):
        desk.call(jobs.move, each.id, JobState.CANCELLED)
    with pytest.raises(TooManyRequests):  # its folder may have garbage that nobody would remove
        desk.submitted()
    for each in (second, first):
        desk.call(jobs.tidied, each.id)
    third = desk.submitted()
    found = desk.call(jobs.page, "acme", None, 100)
    assert [each.id for each in found] == [third.id, second.id]
    assert desk.call(jobs.counts, first.id) == Counts()
    assert kinds(desk, first.id) == []


def test_pages_go_from_the_newest_to_the_oldest_of_a_tenant(desk: Desk) -> None:
    mine = [desk.submitted().id for _ in range(5)]
    theirs = desk.submitted(tenant="other").id
    first = desk.call(jobs.page, "acme", None, 3)
    rest = desk.call(jobs.page, "acme", first[-1].id, 3)
    assert [each.id for each in (*first, *rest)] == mine[::-1]
    assert [each.id for each in desk.call(jobs.page, None, None, 2)] == [theirs, mine[-1]]


def test_all_jobs_under_way_are_looked_at_page_by_page(desk: Desk) -> None:
    made = [desk.submitted(tenant=tenant) for tenant in ("b", "a", "b", "a", "c")]
    desk.call(jobs.move, made[1].id, JobState.CANCELLED)
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
    desk.call(jobs.move, ended.id, JobState.CANCELLED)
    desk.call(jobs.move, running.id, JobState.PAUSED)
    changes = {(ended.id, JobState.CANCELLED), (running.id, JobState.PAUSED)}
    # a transaction may have begun before the last look, and have ended after it
    for later_s in (0.0, OVERLAP_S):
        desk.clock.now_s += later_s
        seen = desk.call(look_at_states, seen.now_s, FIRST, 0)
        assert set(seen.changed) == changes
    desk.clock.now_s += 0.1
    seen = desk.call(look_at_states, seen.now_s, FIRST, 0)
    assert set(seen.changed) == changes
    assert desk.call(look_at_states, desk.clock.now_s, FIRST, 0).changed == []
    desk.clock.now_s -= 3600  # the clock is set back
    desk.call(jobs.move, old.id, JobState.PAUSED)
    assert (old.id, JobState.PAUSED) in desk.call(look_at_states, seen.now_s, FIRST, 0).changed


def test_some_jobs_are_read_at_once(desk: Desk) -> None:
    made = [desk.submitted() for _ in range(3)]
    found = desk.call(some, [made[2].id, JobId("job-none"), made[0].id])
    assert sorted(found, key=lambda each: each.id) == [made[0], made[2]]


def test_states_follow_the_table_and_leave_events(desk: Desk) -> None:
    job = desk.planned()
    desk.call(jobs.move, job.id, JobState.BLOCKED, "no node has the model")
    assert desk.call(jobs.get, job.id).reason == "no node has the model"
    desk.call(jobs.move, job.id, JobState.PAUSED)
    desk.call(jobs.resume, job.id, "acme")
    desk.clock.now_s += 5
    ended = desk.call(jobs.move, job.id, JobState.CANCELLED)
    assert (ended.state, ended.ended_s) == (JobState.CANCELLED, NOW_S + 5)
    assert desk.call(jobs.move, job.id, JobState.CANCELLED) == ended
    for to in (JobState.RUNNING, JobState.PAUSED, JobState.EXPIRED):
        with pytest.raises(JobConflict, match="is cancelled"):
            desk.call(jobs.move, job.id, to)
    told = ["submitted", "planned", "running", "blocked", "paused", "running", "cancelled"]
    assert kinds(desk, job.id) == told


def test_job_that_was_not_paused_is_not_resumed(desk: Desk) -> None:
    job = desk.submitted()
    with pytest.raises(JobConflict, match="planning"):
        desk.call(jobs.resume, job.id)
    running = desk.planned()
    assert desk.call(jobs.resume, running.id).state is JobState.RUNNING
    desk.call(jobs.move, running.id, JobState.BLOCKED, "why")
    assert desk.call(jobs.resume, running.id).state is JobState.BLOCKED


def test_no_more_events_are_kept_than_so_many(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_EVENTS", 3)
    job = desk.submitted()
    for at in range(4):
        desk.call(jobs.note, job.id, "told", str(at))
    found = desk.call(jobs.events, job.id, 0, 100)
    assert [(each.seq, each.text) for each in found] == [(3, "1"), (4, "2"), (5, "3")]
    assert [each.seq for each in desk.call(jobs.events, job.id, 4, 100)] == [5]
    desk.call(jobs.note, JobId("job-none"), "told", "nothing happens")


def test_jobs_expire_at_their_deadline_in_every_state(desk: Desk) -> None:
    late = desk.planned(spec=spec_with(deadline_s=NOW_S + 10))
    paused = desk.planned(spec=spec_with(deadline_s=NOW_S + 10))
    desk.call(jobs.move, paused.id, JobState.PAUSED)
    other = desk.planned(spec=spec_with(deadline_s=NOW_S + 11))
    for_ever = desk.planned()
    desk.clock.now_s += 9.9
    assert desk.call(jobs.expire) == []
    desk.clock.now_s += 0.1
    assert desk.call(jobs.expire) == [late.id, paused.id]
    assert desk.call(jobs.expire) == []
    states = [desk.call(jobs.get, each.id).state for each in (late, paused, other, for_ever)]
    assert states == [JobState.EXPIRED, JobState.EXPIRED, JobState.RUNNING, JobState.RUNNING]


def test_ended_jobs_are_untidy_until_their_garbage_is_removed(desk: Desk) -> None:
    job = desk.planned()
    assert desk.call(jobs.untidy, 10) == []
    desk.call(jobs.move, job.id, JobState.CANCELLED)
    assert [each.id for each in desk.call(jobs.untidy, 10)] == [job.id]
    desk.call(jobs.tidied, job.id)
    assert desk.call(jobs.untidy, 10) == []


# plans


def test_plan_is_leased_to_one_router_the_oldest_job_first(desk: Desk) -> None:
    first, second = desk.submitted(), desk.submitted()
    taken = [desk.call(plans.claim_plan, owner) for owner in "abc"]
    assert [each and (each[0].id, each[1]) for each in taken] == [
        (first.id, 1),
        (second.id, 1),
        None,
    ]


def test_plan_of_a_dead_router_is_made_anew_by_another(desk: Desk) -> None:
    job = desk.submitted()
    assert desk.call(plans.claim_plan, "a")
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
    assert desk.call(plans.add_shards, job.id, 2, 0, ranges(3, rows=4))
    done = desk.call(plans.finish_plan, job.id, 2, "new")
    assert done is not None
    assert (done.state, done.rows, done.shards, done.fingerprint) == (
        JobState.RUNNING,
        12,
        3,
        "new",
    )


def test_shards_that_are_added_again_are_there_once(desk: Desk) -> None:
    job = desk.submitted()
    desk.call(plans.claim_plan, "a")
    for _ in range(2):
        assert desk.call(plans.add_shards, job.id, 1, 0, ranges(2))
        assert desk.call(plans.add_shards, job.id, 1, 2, ranges(3)[2:])
    done = desk.call(plans.finish_plan, job.id, 1, "f")
    assert done is not None
    assert (done.shards, done.rows) == (3, 30)


def test_plan_is_kept_by_renewing_it(desk: Desk) -> None:
    job = desk.submitted()
    desk.call(plans.claim_plan, "a")
    for _ in range(3):
        desk.clock.now_s += LEASE_S - 1
        assert desk.call(plans.renew_plan, job.id, 1)
    assert desk.call(plans.claim_plan, "b") is None


def test_plan_of_an_ended_job_goes_no_further(desk: Desk) -> None:
    job = desk.submitted()
    desk.call(plans.claim_plan, "a")
    desk.call(jobs.move, job.id, JobState.CANCELLED)
    assert not desk.call(plans.add_shards, job.id, 1, 0, ranges(2))
    assert desk.call(plans.finish_plan, job.id, 1, "f") is None


def test_job_fails_whose_plan_is_begun_again_and_again(desk: Desk) -> None:
    job = desk.submitted()
    for token in range(1, plans.MAX_PLANS + 1):
        taken = desk.call(plans.claim_plan, "a")
        assert taken is not None
        assert taken[1] == token
        desk.clock.now_s += LEASE_S
    assert desk.call(plans.claim_plan, "a") is None
    failed = desk.call(jobs.get, job.id)
    assert failed.state is JobState.FAILED
    assert "begun 3 times" in failed.reason


def test_input_that_cannot_be_planned_fails_the_job(desk: Desk) -> None:
    job = desk.submitted()
    desk.call(plans.claim_plan, "a")
    desk.call(plans.fail_plan, job.id, 1, "row 7 is no JSON")
    failed = desk.call(jobs.get, job.id)
    assert (failed.state, failed.reason) == (JobState.FAILED, "row 7 is no JSON")


def test_job_without_rows_is_completed_at_once(desk: Desk) -> None:
    job = desk.planned(0)
    assert desk.call(jobs.finish, job.id).state is JobState.COMPLETED


# leases


def test_shards_are_leased_in_order_with_their_rows(desk: Desk) -> None:
    rows = [RowRange(0, 10, 2, 5, 70, b"d" * 32), RowRange(10, 3, 3, 0, 21)]
    job = desk.planned(rows)
    first, second = desk.call(leasing.claim, job.id, job.spec, "a", 5)
    assert [first.range, second.range] == rows
    assert (first.seq, first.token, first.until_s, first.is_second) == (
        0,
        1,
        NOW_S + LEASE_S,
        False,
    )
    assert desk.call(leasing.claim, job.id, job.spec, "b", 5) == []


def test_no_more_shards_are_leased_than_asked(desk: Desk) -> None:
    job = desk.planned(leasing.MAX_CLAIM + 10)
    assert [each.seq for each in desk.call(leasing.claim, job.id, job.spec, "a", 2)] == [0, 1]
    many = desk.call(leasing.claim, job.id, job.spec, "a", 10**6)
    assert len(many) == leasing.MAX_CLAIM
    assert desk.call(leasing.claim, job.id, job.spec, "a", 0) == []


def test_claims_that_wait_together_are_one_statement_and_share_no_shard(desk: Desk) -> None:
    one, other = desk.planned(7), desk.planned(3)
    asked = [
        Claim(one.id, one.spec, "a", 2),
        Claim(other.id, other.spec, "a", 1),
        Claim(one.id, one.spec, "a", 1),
        Claim(one.id, one.spec, "b", 3),
        Claim(one.id, one.spec, "a", 3),
    ]
    group = [desk.waiting(each) for each in asked]
    updates: list[str] = []
    event.listen(
        desk.database.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: updates.append(statement),
    )
    run_group(desk.database, group)
    assert len([each for each in updates if "UPDATE shard" in each]) == 3
    found = [each.future.result(0) for each in group]
    # those of one router and job are served in their order, all before the next
    assert [[lease.seq for lease in each] for each in found] == [[0, 1], [0], [2], [6], [3, 4, 5]]


def test_claims_of_more_than_a_statement_takes_are_all_served(desk: Desk) -> None:
    job = desk.planned(3 * leasing.MAX_CLAIM)
    counts = (leasing.MAX_CLAIM - 1, 2, 10**6, 1, 0)
    group = [desk.waiting(Claim(job.id, job.spec, "a", count)) for count in counts]
    run_group(desk.database, group)
    found = [each.future.result(0) for each in group]
    assert [len(each) for each in found] == [leasing.MAX_CLAIM - 1, 2, leasing.MAX_CLAIM, 1, 0]
    taken = [lease.seq for each in found for lease in each]
    assert taken == list(range(len(taken)))


def test_claims_find_nothing_where_one_of_them_ends_the_job(desk: Desk) -> None:
    job = desk.planned(3, spec_with(failure=FailurePolicy(most_failures=1)))
    desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += LEASE_S
    group = [desk.waiting(Claim(job.id, job.spec, "b", 1)) for _ in range(2)]
    run_group(desk.database, group)
    assert [each.future.result(0) for each in group] == [[], []]
    assert desk.call(jobs.get, job.id).state is JobState.FAILED


@pytest.mark.parametrize("state", sorted(UNDER_WAY - {JobState.RUNNING, JobState.PLANNING}))
def test_shards_are_leased_only_while_the_job_runs(desk: Desk, state: JobState) -> None:
    job = desk.planned()
    desk.call(jobs.move, job.id, state)
    assert desk.call(leasing.claim, job.id, job.spec, "a", 1) == []


def test_lease_that_ended_is_taken_over_before_shards_that_nobody_had(desk: Desk) -> None:
    job = desk.planned(4)
    (lost,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += 1
    (later,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += LEASE_S - 1.1
    assert [each.seq for each in desk.call(leasing.claim, job.id, job.spec, "b", 1)] == [2]
    desk.clock.now_s += 0.1
    (taken,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert (taken.seq, taken.token) == (lost.seq, 2)
    desk.clock.now_s += 1
    (taken,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert (taken.seq, taken.token) == (later.seq, 2)


def test_leases_that_ended_alone_are_told_and_taken_over(desk: Desk) -> None:
    first, second, other = desk.planned(3), desk.planned(2), desk.planned(1)
    desk.call(leasing.claim, second.id, second.spec, "a", 1)
    desk.clock.now_s += 1
    desk.call(leasing.claim, first.id, first.spec, "a", 2)
    desk.call(leasing.claim, other.id, other.spec, "a", 1)
    desk.clock.now_s += LEASE_S - 1
    assert desk.call(leasing.ended) == [second.id]
    desk.clock.now_s += 1
    assert desk.call(leasing.ended)[0] == second.id  # the longest ago
    desk.call(jobs.move, other.id, JobState.PAUSED)
    assert sorted(desk.call(leasing.ended)) == [first.id, second.id]
    (taken,) = desk.call(leasing.take_over, second.id, second.spec, "b", 5)
    assert (taken.seq, taken.token, taken.is_second) == (0, 2, False)
    (taken,) = desk.call(leasing.take_over, first.id, first.spec, "b", 1)
    assert desk.call(leasing.ended) == [first.id]
    assert [each.seq for each in desk.call(leasing.take_over, first.id, first.spec, "c", 9)] == [1]
    assert desk.call(leasing.ended) == []
    assert desk.call(leasing.take_over, first.id, first.spec, "b", 5) == []
    # nobody had the third shard
    assert [each.seq for each in desk.call(leasing.claim, first.id, first.spec, "b", 5)] == [2]


def test_jobs_with_leases_that_ended_are_told_some_at_a_time(desk: Desk) -> None:
    most = leasing.MAX_ENDED
    large, small = desk.planned(most), desk.planned(1)
    for _ in range(0, most, leasing.MAX_CLAIM):
        desk.call(leasing.claim, large.id, large.spec, "a", leasing.MAX_CLAIM)
    desk.clock.now_s += 1
    desk.call(leasing.claim, small.id, small.spec, "a", 1)
    desk.clock.now_s += LEASE_S
    assert desk.call(leasing.ended) == [large.id]
    desk.call(leasing.take_over, large.id, large.spec, "b", 1)
    assert desk.call(leasing.ended) == [large.id, small.id]


def test_lease_that_ended_too_often_fails_the_job_when_it_is_taken_over(desk: Desk) -> None:
    job = desk.planned(2, spec_with(failure=FailurePolicy(most_failures=1)))
    desk.call(leasing.claim, job.id, job.spec, "a", 2)
    desk.clock.now_s += LEASE_S
    assert desk.call(leasing.take_over, job.id, job.spec, "b", 2) == []
    assert desk.call(jobs.get, job.id).state is JobState.FAILED
    assert desk.call(leasing.ended) == []


def test_lease_is_kept_by_renewing_it(desk: Desk) -> None:
    job = desk.planned(1)
    leases = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    for _ in range(5):
        desk.clock.now_s += LEASE_S - 1
        leases = desk.call(leasing.renew, leases)
        assert [each.until_s for each in leases] == [desk.clock.now_s + LEASE_S]
    assert desk.call(leasing.claim, job.id, job.spec, "b", 1) == []
    assert desk.call(shards.commit, leases[0], job.spec, manifest(leases[0]))


def test_lease_that_was_taken_over_cannot_be_renewed_nor_given_back(desk: Desk) -> None:
    job = desk.planned(1)
    (old,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += LEASE_S
    (new,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert desk.call(leasing.renew, [old]) == []
    assert not desk.call(leasing.release, old, job.spec)
    assert [each.token for each in desk.call(leasing.renew, [old, new])] == [new.token]


def test_frozen_router_that_wakes_commits_nothing(desk: Desk) -> None:
    job = desk.planned(1)
    (old,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += 60
    (new,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert not desk.call(shards.commit, old, job.spec, manifest(old))
    assert desk.call(shards.commit, new, job.spec, manifest(new))
    assert not desk.call(shards.commit, old, job.spec, manifest(old))
    ((_, _, kept),) = desk.call(shards.manifests, job.id, 0, 10)
    assert kept == manifest(new)


def test_lease_given_back_is_free_at_once(desk: Desk) -> None:
    job = desk.planned(2)
    (lease,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    assert desk.call(leasing.release, lease, job.spec)
    assert not desk.call(leasing.release, lease, job.spec)
    assert not desk.call(shards.commit, lease, job.spec, manifest(lease))
    desk.clock.now_s += LEASE_S
    assert desk.call(leasing.ended) == []  # nobody is gone
    (again,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert (again.seq, again.token) == (0, 2)


def test_lease_given_back_leaves_the_other_one_of_its_shard(desk: Desk) -> None:
    for is_second_back in (False, True):
        job = desk.planned(1)
        (first,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
        desk.clock.now_s += 10
        (second,) = desk.call(leasing.claim, job.id, job.spec, "b", 1, may_be_second=True)
        back, kept = (second, first) if is_second_back else (first, second)
        assert desk.call(leasing.release, back, job.spec)
        assert desk.call(leasing.renew, [first, second])[0].token == kept.token
        assert not desk.call(shards.commit, back, job.spec, manifest(back))
        assert desk.call(shards.commit, kept, job.spec, manifest(kept))


def test_clock_that_was_set_back_does_not_lock_shards_up(desk: Desk) -> None:
    job = desk.planned(1)
    desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s -= 3600
    (taken,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert taken.token == 2


def test_slow_shards_are_leased_twice_the_longest_held_first(desk: Desk) -> None:
    job = desk.planned(2)
    (slow,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += 1
    desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert desk.call(leasing.claim, job.id, job.spec, "b", 1) == []
    desk.clock.now_s += 1
    (slow,) = desk.call(leasing.renew, [slow])
    (second,) = desk.call(leasing.claim, job.id, job.spec, "b", 1, may_be_second=True)
    assert (second.seq, second.token, second.is_second) == (0, 2, True)
    rest = desk.call(leasing.claim, job.id, job.spec, "c", 5, may_be_second=True)
    assert [each.seq for each in rest] == [1]
    assert desk.call(leasing.claim, job.id, job.spec, "d", 5, may_be_second=True) == []
    # both hold, and the first manifest counts
    assert len(desk.call(leasing.renew, [slow, second])) == 2
    assert desk.call(shards.commit, slow, job.spec, manifest(slow))
    assert not desk.call(shards.commit, second, job.spec, manifest(second))
    assert desk.call(leasing.renew, [slow, second]) == []


def test_second_lease_holds_when_the_first_is_taken_over(desk: Desk) -> None:
    job = desk.planned(1)
    (first,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += 10
    (second,) = desk.call(leasing.claim, job.id, job.spec, "b", 1, may_be_second=True)
    desk.clock.now_s += 5
    (third,) = desk.call(leasing.claim, job.id, job.spec, "c", 1)
    assert (second.token, third.token) == (2, 3)
    assert not desk.call(shards.commit, first, job.spec, manifest(first))
    assert desk.call(shards.commit, second, job.spec, manifest(second))
    assert not desk.call(shards.commit, third, job.spec, manifest(third))


# manifests


def test_manifests_are_taken_once_and_make_the_counts(desk: Desk) -> None:
    job = desk.planned(3)
    first, second = desk.call(leasing.claim, job.id, job.spec, "a", 2)
    bad = [BadRow(13, "r13", "invalid_request", "no", "node")]
    assert desk.call(shards.commit, second, job.spec, manifest(second, bad=1), bad)
    assert desk.call(shards.commit, second, job.spec, manifest(second, bad=1), bad)
    assert desk.call(jobs.counts, job.id) == Counts(3, 1, 1, 9, 1)
    assert desk.call(shards.bad_rows, job.id, -1, 10) == bad
    assert desk.call(shards.commit, first, job.spec, manifest(first))
    (third,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    assert desk.call(jobs.finish, job.id).state is JobState.RUNNING
    assert desk.call(shards.commit, third, job.spec, manifest(third))
    done = desk.call(jobs.finish, job.id)
    assert (done.state, done.counts) == (JobState.COMPLETED, Counts(3, 3, 0, 29, 1))
    assert desk.call(jobs.finish, job.id) == done
    found = desk.call(shards.manifests, job.id, 1, 10)
    assert [(seq, rows.first_row, kept.bad_rows) for seq, rows, kept in found] == [
        (1, 10, 1),
        (2, 20, 0),
    ]
    assert found[0][2] == manifest(second, bad=1)


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.BLOCKED])
def test_shard_that_was_leased_before_a_pause_is_committed_in_it(
    desk: Desk, state: JobState
) -> None:
    job = desk.planned(1)
    (lease,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.call(jobs.move, job.id, state)
    assert desk.call(leasing.renew, [lease])
    assert desk.call(shards.commit, lease, job.spec, manifest(lease))
    assert desk.call(jobs.finish, job.id).state is JobState.COMPLETED


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED])
def test_ended_job_takes_no_results_and_keeps_those_it_had(desk: Desk, state: JobState) -> None:
    job = desk.planned(2)
    first, second = desk.call(leasing.claim, job.id, job.spec, "a", 2)
    assert desk.call(shards.commit, first, job.spec, manifest(first))
    ended = desk.call(jobs.move, job.id, state)
    assert ended.counts == Counts(2, 1, 0, 10, 0)
    assert not desk.call(shards.commit, second, job.spec, manifest(second))
    assert desk.call(leasing.renew, [second]) == []
    assert desk.call(shards.commit, first, job.spec, manifest(first))
    assert len(desk.call(shards.manifests, job.id, 0, 10)) == 1


def test_bad_rows_are_kept_up_to_a_number_and_all_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_BAD_ROWS", 3)
    job = desk.planned(2)
    for lease in desk.call(leasing.claim, job.id, job.spec, "a", 2):
        rows = [BadRow(lease.range.first_row + at, "r", "c", "t" * 9999) for at in range(2)]
        assert desk.call(shards.commit, lease, job.spec, manifest(lease, bad=2), rows)
    kept = desk.call(shards.bad_rows, job.id, -1, 10)
    assert [each.row for each in kept] == [0, 1, 10]
    assert {len(each.text) for each in kept} == {500}
    assert [each.row for each in desk.call(shards.bad_rows, job.id, 0, 1)] == [1]
    assert desk.call(jobs.counts, job.id).bad_rows == 4


def test_job_fails_when_it_has_more_bad_rows_than_it_bears(desk: Desk) -> None:
    job = desk.planned(3, spec_with(failure=FailurePolicy(most_bad_rows=2)))
    first, second, third = desk.call(leasing.claim, job.id, job.spec, "a", 3)
    assert desk.call(shards.commit, first, job.spec, manifest(first, bad=2))
    assert desk.call(jobs.get, job.id).state is JobState.RUNNING
    assert desk.call(shards.commit, second, job.spec, manifest(second, bad=1))
    failed = desk.call(jobs.get, job.id)
    assert (failed.state, failed.counts) == (JobState.FAILED, Counts(3, 2, 0, 17, 3))
    assert not desk.call(shards.commit, third, job.spec, manifest(third))


def test_job_fails_when_a_shard_has_failed_too_often(desk: Desk) -> None:
    job = desk.planned(2, spec_with(failure=FailurePolicy(most_failures=3)))
    for at in range(2):
        (lease,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
        assert lease.seq == 0
        assert desk.call(leasing.release, lease, job.spec, f"disk {at}")
    assert kinds(desk, job.id)[-2:] == ["shard_failed", "shard_failed"]
    (lease,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += LEASE_S
    assert desk.call(leasing.claim, job.id, job.spec, "b", 1) == []
    failed = desk.call(jobs.get, job.id)
    assert failed.state is JobState.FAILED
    assert failed.reason.startswith("shard 0 failed 3 times")


def test_shard_given_back_without_a_failure_does_not_count(desk: Desk) -> None:
    job = desk.planned(1, spec_with(failure=FailurePolicy(most_failures=1)))
    for _ in range(5):
        (lease,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
        assert desk.call(leasing.release, lease, job.spec)
    (lease,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.call(leasing.release, lease, job.spec, "it broke")
    assert desk.call(jobs.get, job.id).reason == "shard 0 failed 1 times: it broke"


def test_shard_that_ends_its_readers_twice_fails_its_job_whoever_read_it(desk: Desk) -> None:
    job = desk.planned(2)
    first, other = desk.call(leasing.claim, job.id, job.spec, "a", 2)
    assert desk.call(leasing.release, first, job.spec, "all memory", has_ended_reader=True)
    assert desk.call(leasing.release, other, job.spec, "all memory", has_ended_reader=True)
    assert desk.call(jobs.get, job.id).state is JobState.RUNNING  # each of them once
    again, _ = desk.call(leasing.claim, job.id, job.spec, "another router", 2)
    assert desk.call(leasing.release, again, job.spec, "all memory", has_ended_reader=True)
    failed = desk.call(jobs.get, job.id)
    assert (failed.state, failed.reason) == (JobState.FAILED, "rows 0 to 9: all memory")


def test_plan_that_ends_its_readers_twice_fails_its_job(desk: Desk) -> None:
    desk.submitted()
    for at in range(2):
        job, token = desk.call(plans.claim_plan, f"router {at}") or pytest.fail("no plan")
        lost = desk.call(plans.lose_plan, job.id, token, "all memory")
        assert (lost is None) == (at == 0)
    failed = desk.call(jobs.get, job.id)
    assert (failed.state, failed.reason) == (JobState.FAILED, "all memory")


# prices


def test_price_is_the_sum_over_the_processes_that_ran_rows(desk: Desk) -> None:
    first, second, none = desk.submitted(), desk.submitted(), desk.submitted()
    for job, owner, rows, total in (
        (first, "a", 10, 0.5),
        (first, "b", 30, 2.5),
        (second, "a", 7, 0.0),
        (first, "a", 20, 1.0),  # all that it has paid, not what came since
    ):
        desk.call(keep_price, Paid(job.id, owner, Price(rows, total)))
    found = [desk.call(jobs.get, each.id).price for each in (second, none, first)]
    assert found == [Price(7, 0.0), Price(), Price(50, 3.5)]
    assert [each.per_million for each in found] == [0.0, None, 70_000.0]
    listed = desk.call(jobs.page, None, None, 10)
    assert [each.price for each in listed] == [found[1], found[0], found[2]]


def test_price_that_is_kept_again_or_late_changes_nothing(desk: Desk) -> None:
    job = desk.submitted()
    for rows in (20, 20, 10):
        desk.call(keep_price, Paid(job.id, "a", Price(rows, rows / 10)))
    assert desk.call(jobs.get, job.id).price == Price(20, 2.0)


@pytest.mark.parametrize("is_first", [True, False])
def test_commit_keeps_the_price_whoever_was_first(desk: Desk, is_first: bool) -> None:
    job = desk.planned(1)
    (lease,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    if not is_first:
        desk.clock.now_s += 60
        (other,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
        assert desk.call(shards.commit, other, job.spec, manifest(other))
        desk.call(jobs.finish, job.id)
    paid = Paid(job.id, "a", Price(10, 0.1))
    for _ in range(2):  # the answer may have been lost
        taken = desk.call(shards.commit, lease, job.spec, manifest(lease), (), paid)
        assert taken is is_first
    assert desk.call(jobs.get, job.id).price == Price(10, 0.1)


def test_commits_of_one_transaction_keep_the_last_sum_at_its_end(desk: Desk) -> None:
    job = desk.planned(3)
    leases = desk.call(leasing.claim, job.id, job.spec, "a", 3)
    updates: list[str] = []
    waiting = [
        desk.waiting(
            lambda turn, at=at, lease=lease: shards.commit(
                turn, lease, job.spec, manifest(lease), (), Paid(job.id, "a", Price(at, at / 10))
            )
        )
        for at, lease in enumerate(leases, 1)
    ]
    event.listen(
        desk.database.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: updates.append(statement),
    )
    run_group(desk.database, waiting)
    assert [each.future.result(timeout=0) for each in waiting] == [True, True, True]
    assert len([each for each in updates if "UPDATE price" in each]) == 1
    assert desk.call(jobs.get, job.id).price == Price(3, 0.3)


def test_price_of_calls_that_end_after_their_job_is_added(desk: Desk) -> None:
    job = desk.planned(1)
    desk.call(keep_price, Paid(job.id, "a", Price(10, 1.0)))
    assert desk.call(jobs.move, job.id, JobState.CANCELLED).price == Price(10, 1.0)
    desk.call(keep_price, Paid(job.id, "a", Price(18, 1.8)))
    desk.call(keep_price, Paid(job.id, "b", Price(2, 0.2)))
    assert desk.call(look, job.id, None, 0).job.price == Price(20, 2.0)


def test_price_goes_with_its_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_TENANT_JOBS", 1)
    job = desk.submitted()
    desk.call(keep_price, Paid(job.id, "a", Price(10, 1.0)))
    desk.call(jobs.move, job.id, JobState.CANCELLED)
    desk.call(jobs.tidied, job.id)
    desk.submitted()
    desk.call(keep_price, Paid(job.id, "b", Price(10, 1.0)))  # one that is late
    with desk.database.engine.connect() as connection:
        assert connection.execute(select(PRICES)).all() == []
