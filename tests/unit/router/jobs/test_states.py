"""The states of a job, and which may follow which."""

from __future__ import annotations

import pytest

from capamesh.router.jobs.states import COMMITTING, ENDED, MOVES, UNDER_WAY, JobState, before


def test_table_has_every_state_and_ends() -> None:
    assert set(MOVES) == set(JobState)
    assert sorted(ENDED) == ["cancelled", "completed", "expired", "failed"]
    assert set(JobState) == ENDED | UNDER_WAY
    assert COMMITTING < UNDER_WAY


@pytest.mark.parametrize("state", sorted(UNDER_WAY))
def test_every_job_under_way_can_end_in_each_way_but_completion(state: JobState) -> None:
    assert ENDED - {JobState.COMPLETED} <= MOVES[state]


def test_states_before_another() -> None:
    assert before(JobState.RUNNING) == (JobState.BLOCKED, JobState.PAUSED, JobState.PLANNING)
    assert before(JobState.PLANNING) == ()
    assert set(before(JobState.COMPLETED)) == COMMITTING
