"""Jobs are found by what is asked of them, and nothing is left of those that are forgotten."""

from __future__ import annotations

import random

from job_desk import NOW_S, PINNED, spec_with

from capamesh.router.jobs.running.known_jobs import KnownJobs
from capamesh.router.jobs.states import UNDER_WAY, JobState
from capamesh.router.jobs.values import Job, JobId, Pinned

PINS = (PINNED, Pinned(PINNED.version, "sha256:01"))


def job_of(name: str, pinned: Pinned = PINNED, state: JobState = JobState.RUNNING) -> Job:
    return Job(JobId(name), "t", spec_with(), pinned, state, "", NOW_S, None, 10, 1, "")


def test_jobs_are_where_a_plain_table_has_them() -> None:
    known, plain = KnownJobs(), dict[JobId, Job]()
    rng = random.Random(1)
    for _ in range(3000):
        name = JobId(f"job-{rng.randrange(40)}")
        if rng.random() < 0.3:
            known.forget(name)
            plain.pop(name, None)
        else:
            plain[name] = job_of(name, rng.choice(PINS), rng.choice(sorted(UNDER_WAY)))
            known.put(plain[name])
        assert known.ids() == set(plain)
        assert set(known.models()) == {("digits", job.pinned) for job in plain.values()}
        for state in UNDER_WAY:
            expected = {job.id for job in plain.values() if job.state is state}
            assert {job.id for job in known.in_state(state)} == expected
            for pinned in PINS:
                of_model = {job.id for job in plain.values() if job.pinned == pinned}
                found = {job.id for job in known.of(("digits", pinned), state)}
                assert found == expected & of_model
