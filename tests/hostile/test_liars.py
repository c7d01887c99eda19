"""Nodes of one token that say of right requests that they are wrong, or fail them: no request is lost where an honest node serves."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import pytest
from chaos import send_signal
from evil_nodes import DIGITS_OUT, LIES, Answers, Given, lying, made_up, right_request
from hostile import Figures, attacked, children_of
from http_load import Load, failed, failures

from capamesh.protocol.links.calls import InferCall

REQUESTS = 400
MOST_ROUNDS = 40
"""As many times so many requests as take longer than an ejection (measured: a second each)."""
LEAST_TOLD = 3
"""The lies of each kind that must have been told, or nothing was tried (guess)."""
ALL_LIES = [LIES["invalid"], LIES["run_failed"], LIES["strange outputs"], LIES["too_large"]]


class NowAndThen:
    """The answers of a liar that answers every second request as it should, so that it is asked again; and its lies."""

    def __init__(self, lie: Answers, right: int) -> None:
        self._lie = lie
        self._right = right
        self._turn = itertools.cycle((False, True))
        self.told = 0

    def __call__(self, call: InferCall) -> Given:
        if not next(self._turn):
            return [made_up(spec, 1, self._right) for spec in DIGITS_OUT]
        self.told += 1
        return self._lie(call)


@pytest.mark.parametrize(("honest", "is_once"), [(1, False), (1, True), (3, False)])
async def test_liars_of_one_token_fail_no_request_that_an_honest_node_answers(
    tmp_path: Path, sample_models: Path, figures: Figures, honest: int, is_once: bool
) -> None:
    async with attacked(tmp_path / "network", sample_models, nodes=honest) as cluster:
        right, label = await right_request(cluster.http_url)
        silent = [LIES["never answers"]] * 4
        async with lying(cluster, tmp_path / "liars", *silent, is_once=is_once) as liars:
            for name in ("late", "invalid", "too_large", "run_failed", "strange outputs"):
                lies = [NowAndThen(LIES[name], label) for _ in liars]
                for liar, lie in zip(liars, lies, strict=True):
                    liar.answers = lie
                told = 0
                for _ in range(MOST_ROUNDS):  # liars that were ejected for the last lie come back
                    load = Load(cluster.http_url)
                    assert failures(await load.run([right] * REQUESTS, concurrency=4)) == []
                    told = sum(lie.told for lie in lies)
                    if told >= LEAST_TOLD:
                        break
                case = f"{honest} honest, 4 liars, {'once, ' if is_once else ''}{name}: lies told"
                figures.at_least(case, told, LEAST_TOLD)


async def test_two_liars_beside_a_killed_and_a_frozen_node_of_six_fail_next_to_nothing(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    count = 2_000
    async with attacked(tmp_path / "network", sample_models, nodes=4) as cluster:
        right, _ = await right_request(cluster.http_url)
        turns = [itertools.cycle(ALL_LIES), itertools.cycle(reversed(ALL_LIES))]
        lies = [lambda call, turn=turn: next(turn)(call) for turn in turns]
        killed, frozen = (children_of(node.pid) for node in cluster.nodes[2:])

        async def kill() -> None:
            send_signal(killed, signal.SIGKILL)

        async def freeze() -> None:
            send_signal(frozen, signal.SIGSTOP)

        async with lying(cluster, tmp_path / "liars", *lies):
            hurt = {count // 4: kill, count // 2: freeze}
            try:
                shots = await Load(cluster.http_url).run([right] * count, concurrency=4, at=hurt)
            finally:
                send_signal(frozen, signal.SIGCONT)
    assert all(shot.is_right for shot in shots)
    figures.at_most("liars, a killed and a frozen node: failed of 2,000", failed(shots), 2)
