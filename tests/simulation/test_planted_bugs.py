"""Bugs that are planted in production code, each of which some seed must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from capamesh.node.generation import GenerationRequest
from capamesh.node.runtime.text_generation import text_model
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.network import NetworkTrust
from capamesh.router.access.key_store import KeyStore
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.balancing.prober import Prober
from capamesh.router.fleet.membership import FleetMembers
from capamesh.router.http.body_budget import BodyBudget
from capamesh.router.jobs.running.shard_results import ShardResults
from capamesh.router.jobs.store import lease_operations, shard_operations
from capamesh.router.jobs.store.tables import SHARDS
from capamesh.router.requests import answer_cache
from capamesh.router.requests.answer_cache import AnswerCache
from capamesh.router.requests.generation.parts import Progress
from capamesh.router.resilience.retry_budget import RetryBudget
from capamesh.simulation.world.story import Story

pytestmark = pytest.mark.pure
SEEDS = 60
"""The most seeds in which a bug must be found."""

Plant = Callable[[pytest.MonkeyPatch], None]


def retry_forgets_its_budget(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RetryBudget, "try_withdraw", lambda *_: True)


def probe_counts_as_a_request(patch: pytest.MonkeyPatch) -> None:
    ask = Prober.ask

    def counted(self: Prober, replicas: Any) -> None:
        replicas = list(replicas)
        for replica in replicas:
            replica.endpoint.rif += 1
        ask(self, replicas)

    patch.setattr(Prober, "ask", counted)


def loser_of_a_hedge_is_not_withdrawn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "withdraw", lambda _: None)


def request_that_its_client_left_stays_in_flight(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestPicker, "withdrawn", lambda *_: None)


def answer_is_kept_under_the_key_of_another(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(answer_cache, "mark_of", lambda _: 1)
    patch.setattr(AnswerCache, "_key", lambda *_: b"k" * 32)


def drain_cuts_what_runs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkerService, "is_quiet", True)


def revoked_member_is_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NetworkTrust, "update", lambda _self, _revocations: True)
    patch.setattr(FleetMembers, "expel", lambda *_: None)


def body_is_not_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BodyBudget, "let_go", lambda *_: None)
    patch.setattr(BodyBudget, "release", lambda *_: None)


def lost_lease_is_committed_all_the_same(patch: pytest.MonkeyPatch) -> None:
    shard = SHARDS.c.job == shard_operations._JOB, SHARDS.c.seq == shard_operations._SEQ
    for module, name in ((shard_operations, "_COMMIT"), (lease_operations, "_RENEW")):
        anyones = getattr(module, name)._generate()
        anyones._where_criteria = ()
        patch.setattr(module, name, anyones.where(*shard))


def row_is_written_twice_by_who_takes_a_shard_over(patch: pytest.MonkeyPatch) -> None:
    write = ShardResults.write

    def twice(self: ShardResults, sink: Any) -> Any:
        if self._lease.token > 1:
            self._results[-1] = replace(self._results[-1], numbers=self._results[0].numbers)
        return write(self, sink)

    patch.setattr(ShardResults, "write", twice)


def stream_resumes_one_token_late(patch: pytest.MonkeyPatch) -> None:
    left = Progress.left
    patch.setattr(
        Progress,
        "left",
        lambda self: {choice: [*ids, ids[-1] + 1] for choice, ids in left(self).items()},
    )


def stream_goes_on_behind_its_tokens_as_a_prompt(patch: pytest.MonkeyPatch) -> None:
    def request(**given: Any) -> GenerationRequest:
        had = given.pop("resumed", ())
        given["prompt"] += had
        given["max_tokens"] -= len(had)
        return GenerationRequest(**given)

    patch.setattr(text_model, "GenerationRequest", request)


def revoked_key_is_taken(patch: pytest.MonkeyPatch) -> None:
    rows = KeyStore._rows
    patch.setattr(
        KeyStore,
        "_rows",
        lambda self, of: [replace(each, revoked_s=None) for each in rows(self, of)],
    )


@pytest.mark.parametrize(
    ("plant", "focus"),
    [
        (retry_forgets_its_budget, {"faults": ["all_ill"], "rows": 0}),
        (probe_counts_as_a_request, {}),
        (loser_of_a_hedge_is_not_withdrawn, {"faults": ["slow", "slow"], "rows": 0}),
        (request_that_its_client_left_stays_in_flight, {}),
        (answer_is_kept_under_the_key_of_another, {}),
        (drain_cuts_what_runs, {"faults": ["drain"], "rows": 0, "is_once": True}),
        (revoked_member_is_believed, {"faults": ["revoke"], "rows": 0}),
        (body_is_not_given_back, {}),
        (lost_lease_is_committed_all_the_same, {"faults": ["freeze_router"], "rows": 1200}),
        (stream_resumes_one_token_late, {"faults": ["kill_node"], "rows": 0}),
        (stream_goes_on_behind_its_tokens_as_a_prompt, {"faults": ["kill_node"], "rows": 0}),
        (revoked_key_is_taken, {"faults": ["revoke_key"], "rows": 0, "has_keys": True}),
        (row_is_written_twice_by_who_takes_a_shard_over, {"faults": ["kill_router"], "rows": 1200}),
    ],
)
def test_planted_bug_is_found(
    plant: Plant, focus: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in range(SEEDS):
        try:
            Story(seed, **focus).play()
        except Exception:  # noqa: BLE001 - a violation, or what breaks for the bug
            return
    pytest.fail(f"no seed up to {SEEDS} finds it")
