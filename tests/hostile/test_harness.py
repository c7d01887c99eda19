"""What the attacks' tests rest on: a limit that is in force, and clients that see failures."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from chaos import send_signal, worker_pids
from hostile import MIB, Figures, MemoryWatch, attacked

HUNGRY = "import sys, time; kept = bytearray(64 << 20); print('full', flush=True); time.sleep(60)"


@pytest.mark.smoke
async def test_process_over_its_memory_limit_is_killed_and_one_under_it_is_not() -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", HUNGRY, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    over, under = processes
    watch = MemoryWatch({over.pid: 32 * MIB, under.pid: 512 * MIB})
    try:
        async with asyncio.timeout(120):
            assert await over.wait() == -signal.SIGKILL
            assert under.stdout is not None
            assert await under.stdout.readline() == b"full\n"
        assert under.returncode is None
        while watch.peaks[under.pid] < 64 * MIB:
            await asyncio.sleep(0.01)
    finally:
        watch.stop()
        under.kill()
        await under.wait()
    assert set(watch.kills) == {over.pid}


async def test_honest_clients_tell_what_they_saw(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=1) as network:
        async with network.honest(connections=2) as seen:
            await asyncio.sleep(0.5)
        assert seen.failures == []
        figures.at_least("answers to well-behaved clients without an attack", seen.answered, 1)
        async with network.honest(connections=2, is_new=True) as hurt:
            send_signal([network.router.pid], signal.SIGKILL)
            await network.router.wait()
            await asyncio.sleep(2.0)  # two of them ask again and again
        assert hurt.failed > 0
        assert worker_pids(network.nodes[0])
