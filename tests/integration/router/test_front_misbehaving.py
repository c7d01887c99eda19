"""Clients that behave, among others that do not: all of the first are answered, and nothing is kept of the second."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from certificates import Authority
from fleet_fakes import echo
from misbehaving_clients import KINDS, Target, misbehave, slow_handshake
from patience import until
from raw_http import HungUp, connected
from router_http import Http
from tidy_router import check, infer, tidy

from capamesh.router.http import tls_door
from capamesh.router.http.limits import FrontLimits
from capamesh.router.http.tls_files import ServerTls

BEHAVING = 20
REQUESTS = 15
ROUNDS = 2
IMPATIENT = FrontLimits(first_head_s=0.5, idle_s=5.0)
"""Of the second, for all share one event loop here: those that behave are never idle for so long."""


async def behave(http: Http, target: Target, name: int) -> None:
    """Ask on one connection, and see that each answer is the right one; whom the machine made late asks once more."""
    at = 0
    while at < REQUESTS:
        with suppress(OSError, HungUp):
            async with connected(target.port, tls=target.tls) as client:
                while at < REQUESTS:
                    await client.send(infer(f"{name}-{at}"))
                    check(await client.answer(), "infer", f"{name}-{at}")
                    at += 1
                    await asyncio.sleep(0.01)


@pytest.mark.real_loop("OpenSSL reads the system's sockets")
@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
async def test_clients_are_answered_among_those_that_misbehave_of_whom_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_tls: bool
) -> None:
    monkeypatch.setattr(tls_door, "PATIENCE_S", 2.0)
    monkeypatch.setattr(tls_door, "LINGER_S", 0.1)
    authority = Authority(tmp_path)
    tls = ServerTls(authority.server(), time.time) if has_tls else None
    async with tidy(tls=tls, front_limits=IMPATIENT, arrival_s=0.4) as http:
        for name in "abcdefgh":  # of whom each has room for some
            http.node(name, echo)
        host, port = http.client.host, http.client.port
        done: Counter[str] = Counter()
        kinds = [kind for kind in KINDS if has_tls or kind is not slow_handshake]
        bad = [
            asyncio.create_task(
                misbehave(
                    kind,
                    Target(host, port, authority.trusting() if has_tls else None, pause_s=0.05),
                    random.Random(at),
                    done,
                    rounds=ROUNDS,
                )
            )
            for at, kind in enumerate(kinds)
        ]
        good = Target(host, port, authority.trusting() if has_tls else None)
        async with asyncio.timeout(60):
            await asyncio.gather(*(behave(http, good, name) for name in range(BEHAVING)))
            await asyncio.gather(*bad)
        assert done == {kind.__name__: ROUNDS for kind in kinds}
        front, counts = http.front, http.fleet.counts
        await until(lambda: not (len(front.connections) or len(front._handshakes) or counts))
        assert http.front.requests.count == 0
        assert (http.front.budget.used_bytes, http.front.budget.arriving_bytes) == (0, 0)
        assert set(http.log.events) <= {"tls_refused"}
        http.log.events.clear()
