"""Nodes of one token that say of right requests that they are wrong, or fail them: no request is lost where an honest node serves."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from evil_node import Answers, Late, made_up
from hostile import Figures, attacked
from liars import LIES, OUTPUTS, ask, label_of, lying, signal_all

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import Tensor

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

    def __call__(self, call: InferCall) -> Sequence[Tensor] | CapameshError | Late | None:
        if not next(self._turn):
            return [made_up(spec, 1, self._right) for spec in OUTPUTS]
        self.told += 1
        return self._lie(call)


@pytest.mark.parametrize(("honest", "is_once"), [(1, False), (1, True), (3, False)])
async def test_liars_of_one_token_fail_no_request_that_an_honest_node_answers(
    tmp_path: Path, sample_models: Path, figures: Figures, honest: int, is_once: bool
) -> None:
    async with attacked(tmp_path / "network", sample_models, nodes=honest) as running:
        right = await label_of(running.url)
        silent = [lambda _: None] * 4
        async with lying(running, tmp_path / "liars", *silent, is_once=is_once) as liars:
            for name in ("late", "invalid", "too_large", "run_failed", "strange outputs"):
                lies = [NowAndThen(LIES[name], right) for _ in liars]
                for liar, lie in zip(liars, lies, strict=True):
                    liar.answers = lie
                told = 0
                for _ in range(MOST_ROUNDS):  # liars that were ejected for the last lie come back
                    seen = await ask(running.url, REQUESTS, right)
                    assert (seen.failed, seen.wrong, seen.answered) == ({}, 0, REQUESTS)
                    told = sum(lie.told for lie in lies)
                    if told >= LEAST_TOLD:
                        break
                case = f"{honest} honest, 4 liars, {'once, ' if is_once else ''}{name}: lies told"
                figures.at_least(case, told, LEAST_TOLD)


async def test_two_liars_beside_a_killed_and_a_frozen_node_of_six_fail_next_to_nothing(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    count = 2_000
    async with attacked(tmp_path / "network", sample_models, nodes=4) as running:
        right = await label_of(running.url)
        turns = [itertools.cycle(ALL_LIES), itertools.cycle(reversed(ALL_LIES))]
        lies = [lambda call, turn=turn: next(turn)(call) for turn in turns]
        async with lying(running, tmp_path / "liars", *lies):
            killed, frozen = running.nodes[2].pid, running.nodes[3].pid
            try:
                seen = await ask(
                    running.url,
                    count,
                    right,
                    at={
                        count // 4: lambda: signal_all(killed, signal.SIGKILL),
                        count // 2: lambda: signal_all(frozen, signal.SIGSTOP),
                    },
                )
            finally:
                signal_all(frozen, signal.SIGCONT)
    assert seen.wrong == 0
    figures.at_most("liars, a killed and a frozen node: failed of 2,000", seen.failed.total(), 2)
