from __future__ import annotations

import pytest

from capamesh.protocol.channel.backoff import Backoff, RestartPolicy, SilenceWatch


def test_jitter_shortens_a_wait_by_up_to_half() -> None:
    policy = RestartPolicy(first_s=1.0)
    assert Backoff(policy).failed(0, jitter=0.0) == 1.0
    assert Backoff(policy).failed(0, jitter=0.5) == 0.75
    assert Backoff(policy).failed(0, jitter=1.0) == 0.5


def test_any_message_clears_the_silence() -> None:
    watch = SilenceWatch(ping_every_s=1, start_limit_s=60, silent_limit_s=2)
    watch.heard()
    assert [watch.pinged(), watch.pinged()] == [False, False]
    watch.heard()
    assert [watch.pinged(), watch.pinged(), watch.pinged()] == [False, False, True]


def test_child_that_has_not_spoken_yet_has_the_longer_start_limit() -> None:
    watch = SilenceWatch(ping_every_s=0.5, start_limit_s=2, silent_limit_s=1)
    assert [watch.pinged() for _ in range(5)] == [False, False, False, False, True]


def test_waits_double_up_to_the_most_and_begin_again_after_a_long_run() -> None:
    backoff = Backoff(RestartPolicy(first_s=0.2, factor=2, most_s=1.0, stable_after_s=30))
    waits = [backoff.failed(ran_s) for ran_s in (0, 0, 0, 0, 29.9, 30.0, 0)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0, 0.2, 0.4])
