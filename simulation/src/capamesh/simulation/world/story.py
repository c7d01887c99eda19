"""A story of a world: clients ask, and things go wrong, as a seed draws it. What must be true is looked at all along, and at the end.

    python -m capamesh.simulation.world.story --seed 123

plays a seed and prints what happened. The same seed always plays the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed
from capamesh.protocol.network import RevocationList, Role
from capamesh.router.resilience.retry_budget import RESERVE, RETRY_SHARE, TTL_S
from capamesh.simulation.memory_tcp import Machine
from capamesh.simulation.world import http_client, members, model, talker
from capamesh.simulation.world.client_keys import ClientKeys, headers_of
from capamesh.simulation.world.full_disk import full_disk
from capamesh.simulation.world.http_client import LOST, Answer
from capamesh.simulation.world.world import HTTP_PORT, TIMEOUT_S, Host, Violation, World

DURATION_S: Final = 25.0
"""Virtual seconds in which clients ask and things go wrong."""
SETTLE_S: Final = 2.0
"""Seconds until the fleet is known, at the start."""
HEAL_S: Final = 20.0
"""Seconds after the last fault by which all must be well again."""
SLACK_S: Final = 1.5
"""Seconds by which an answer may come after its deadline."""
DRAIN_S: Final = 10.0
"""Seconds for which a node that drains is waited for; one that is frozen meanwhile takes longer."""
DRAIN_SLOWNESS: Final = 30.0
"""The times that runs take longer which a node begins just before it drains."""
LOOK_S: Final = 0.1
"""Seconds between two looks at what must be true all along."""
AFTER_S: Final = 12.0
"""Seconds after a fault for which it explains that a request fails."""
MOST_RATE: Final = 15.0
"""The most requests a second."""
WORK_S: Final = 1.0
"""Seconds after which a node knows that a request is not wanted any more."""
LAST: Final = 8
"""Requests at the end to each router."""
FIRST_OF_JOB: Final = 2_000_000.0
"""The number that the first row of a job asks for."""
JOB_ENDS_S: Final = 120
"""Seconds by which a job has ended once all is well: several leases, and its rows."""
FIRST_OF_LAST: Final = 1_000_000.0
"""The number that the first of these asks for."""
INFER: Final = f"/v2/models/{model.NAME}/infer"
SILENT_S: Final = 11.0
"""Seconds after which a main process has killed a worker that stands still."""
FAILURES: Final = frozenset({400, 429, 500, 502, 503, 504})
"""The statuses of requests that failed for a fault; 400 is a liar's word where no one could be asked who knows better."""


@dataclass(slots=True)
class Asked:
    """A request under way."""

    router: Host
    start: int
    """The number of the router's process."""
    x: float
    began_s: float
    key: str


class Story:
    """One seed's."""

    def __init__(
        self,
        seed: int,
        *,
        faults: Sequence[str] = (),
        rows: int | None = None,
        is_once: bool | None = None,
        workers: int | None = None,
        has_keys: bool | None = None,
    ) -> None:
        """Draw it; `faults` are the only ones that happen, each once, and the others are not drawn either where they are given."""
        self.rng = rng = random.Random(f"{seed}/story")  # noqa: S311 - replays
        self.is_cached = rng.random() < 0.3 and not is_once
        self._faults = faults
        drawn = not self.is_cached and rng.random() < 0.3
        self.is_once = drawn if is_once is None else is_once
        """True if no request may run twice."""
        drawn_rows = rng.choice((0, 0, 200, 1200))
        self.rows = drawn_rows if rows is None else rows
        """The rows of its job; 0: there is none."""
        self.job = ""
        self._jobs: sqlite3.Connection | None = None
        self._done: dict[int, str] = {}
        """The manifests of the shards that are done."""
        rules = f"[{model.NAME}]\n"
        if self.is_cached:
            rules += "cache = { ttl_s = 2.0, shared = true }\n"
        if self.is_once:
            rules += "retry = false\nhedge = false\n"
        workers = rng.choice((0, 0, 0, 2)) if workers is None else workers
        self.world = world = World(
            seed, routers=rng.randint(1, 3), nodes=rng.randint(2, 4), workers=workers, rules=rules
        )
        self.clients = Machine("20.0.3.1")
        keys = random.Random(f"{seed}/keys")  # noqa: S311 - replays
        drawn = keys.random() < 0.3
        self.keys: ClientKeys | None = None
        """Those that the routers ask for; None: they ask for none."""
        if drawn if has_keys is None else has_keys:
            self.keys = ClientKeys(world.keys, keys, world.wall_s)
        self.open: dict[int, Asked] = {}
        self.over_s: dict[float, float] = {}
        """The time when the last request for each number was over."""
        self.cut_s = 0.0
        """The time until which withdrawals may be late, for a wire or a process was cut off."""
        self.asked = 0
        self.failed = 0
        self.until_s = 0.0
        """The time until which a fault explains that a request fails."""
        self.partings: set[tuple[str, str]] = set()
        network = world.loop.network
        base_s = rng.choice((0.0, 0.000_2, 0.002, 0.03))
        wires = random.Random(f"{seed}/wires")  # noqa: S311 - replays
        network.delay_s = lambda _source, _target: base_s * wires.uniform(0.5, 2.0)
        world.bus.loss = rng.choice((0.0, 0.0, 0.1, 0.3))

    def play(self) -> None:
        """Play it; raises `Violation` where something is wrong, and whatever broke."""
        try:
            self.world.play(self._play())
        finally:
            if self._jobs is not None:
                self._jobs.close()

    async def _play(self) -> None:
        world, rng = self.world, self.rng
        for host in world.routers + world.nodes:
            host.slowness = rng.choice((1.0, 1.0, 1.0, 3.0))
            world.start(host)
        await asyncio.sleep(SETTLE_S)
        with self.clients.here():
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(self._look())
                for at_s, fault in self._plan():
                    tasks.create_task(self._later(at_s, fault))
                async with asyncio.TaskGroup() as asking:
                    if self.rows:
                        asking.create_task(self._submit())
                    await self._ask_for(asking, DURATION_S)
                self._heal()
                await asyncio.sleep(HEAL_S)
                looking.cancel()
            await self._check_end()

    # clients

    async def _ask_for(self, tasks: asyncio.TaskGroup, seconds: float) -> None:
        rng, loop = self.rng, self.world.loop
        rate = rng.choice((2.0, 6.0, MOST_RATE))
        end_s = loop.time() + seconds
        while loop.time() < end_s:
            self.asked += 1
            ask = self._ask if rng.random() < 0.8 else self._listen
            tasks.create_task(ask(self.asked, rng.choice(self.world.routers)))
            await asyncio.sleep(rng.expovariate(rate))

    async def _ask(self, number: int, router: Host) -> None:
        """Ask as one client and check what it gets; now and then it hangs up before."""
        rng, loop = self.rng, self.world.loop
        x = float(rng.randint(1, 20) if self.is_cached and rng.random() < 0.7 else 1000 + number)
        rows = rng.choice((1, 1, 1, 3))
        leaves_s = rng.uniform(0.001, 0.05) if rng.random() < 0.1 else None
        key = self._drawn_key()
        asked = self.open[number] = Asked(router, router.starts, x, loop.time(), key)
        try:
            async with asyncio.timeout(leaves_s):
                answer = await self._infer(router, x, rows, key)
        except TimeoutError:
            self.world.say(f"client {number} leaves")
            return
        finally:
            del self.open[number]
            self.over_s[x] = loop.time()
        self.world.say(f"client {number} asked for {x:g}: {answer.status}")
        self._judge(answer, asked, rows)

    def _drawn_key(self) -> str:
        return "" if self.keys is None else self.keys.drawn()

    def _is_refused(self, answer: Answer, asked: Asked) -> bool:
        """Return whether a request was refused for its key; raise `Violation` where it ought to be and was not, or the reverse."""
        keys = self.keys
        if keys is None:
            return False
        has_looked = asked.began_s > asked.router.stood_until_s
        age_s = self.world.loop.time() - asked.began_s
        if answer.status == 200 and keys.is_refused(asked.key, age_s, has_looked=has_looked):
            raise Violation(f"{asked.router.name} served a request with the key {asked.key!r}")
        if answer.status == 401 and keys.is_taken(asked.key):
            raise Violation(f"{asked.router.name} refused the key {asked.key!r}")
        return answer.status == 401

    async def _infer(self, router: Host, x: float, rows: int, key: str) -> Answer:
        data = [value for row in range(rows) for value in (x + row / 8, 0.0)]
        tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": data}
        return await self._call(router, "POST", INFER, {"inputs": [tensor]}, key=key)

    async def _call(
        self, router: Host, method: str, path: str, body: object = None, *, key: str | None = None
    ) -> Answer:
        """Send a request with a key, or with the good one if the routers ask for any."""
        if key is None:
            key = "" if self.keys is None else self.keys.good
        return await http_client.ask(router.address, HTTP_PORT, method, path, body, headers_of(key))

    def _judge(self, answer: Answer, asked: Asked, rows: int) -> None:
        now_s = self.world.loop.time()
        what = f"{asked.router.name} was asked for {asked.x:g}"
        if answer.extra:
            raise Violation(f"{what} and said more than one answer: {answer.extra[:100]!r}")
        if self._is_refused(answer, asked):
            return
        if answer.status == 200:
            got = answer.json()["outputs"][0]["data"][::2]
            wanted = [model.answer_to(asked.x + row / 8) for row in range(rows)]
            if got != wanted:
                raise Violation(f"{what} and answered {got}, not {wanted}")
            return
        self.failed += 1
        if answer.status not in FAILURES and answer.status:
            raise Violation(f"{what}: {answer.status} {answer.body[:200]!r}")
        if now_s > self.until_s:
            raise Violation(
                f"{what} and failed though nothing was wrong: {answer.status} {answer.body[:300]!r}"
            )

    async def _listen(self, number: int, router: Host) -> None:
        """Have the language model count on from a number, and check each word; now and then it hangs up before."""
        rng, loop = self.rng, self.world.loop
        prompt = rng.randint(1, talker.VOCABULARY - talker.MOST_TOKENS - 2)
        most = rng.randint(1, talker.MOST_TOKENS)
        body = {"model": talker.NAME, "prompt": [prompt], "max_tokens": most, "temperature": 0}
        body |= {"stream": True, "seed": 1} if prompt % 2 else {"stream": True}
        key = self._drawn_key()
        asked = self.open[number] = Asked(router, router.starts, -float(prompt), loop.time(), key)
        try:
            async with asyncio.timeout(rng.uniform(0.001, 1.0) if rng.random() < 0.1 else None):
                answer = await self._call(router, "POST", "/v1/completions", body, key=key)
        except TimeoutError:
            self.world.say(f"client {number} stops listening")
            return
        finally:
            del self.open[number]
        if self._is_refused(answer, asked):
            return
        words, end = heard(answer)
        self.world.say(f"client {number} heard {len(words)} words of {most} after {prompt}: {end}")
        what = f"{asked.router.name} was to say {most} words after {prompt}"
        if words != talker.words_after(prompt, len(words)) or len(words) > most:
            raise Violation(f"{what} and said {words}")
        if end == "[DONE]" and len(words) == most:
            return
        self.failed += 1
        if loop.time() > self.until_s:
            raise Violation(
                f"{what} and ended after {len(words)} though nothing was wrong: {answer.status} {end} {answer.body[-300:]!r}"
            )

    # a job

    async def _submit(self) -> None:
        """Submit the story's job, at whichever router takes it."""
        lines = [json.dumps({"x": [FIRST_OF_JOB + row, 0.0]}) for row in range(self.rows)]
        (self.world.data / "in.jsonl").write_text("\n".join(lines))
        body = {
            "model": model.NAME,
            "input": {"url": str(self.world.data / "in.jsonl")},
            "client_key": "the job",
            "concurrency": self.rng.choice((0, 1, 2)),
            "failure": {"most_bad_rows": self.rows, "most_failures": 100},
        }
        while not self.job:
            router = self.rng.choice(self.world.routers)
            answer = await self._call(router, "POST", "/v1/jobs", body)
            self.world.say(f"job submitted at {router.name}: {answer.status}")
            if answer.status in {200, 201}:
                self.job = answer.json()["id"]
            else:
                await asyncio.sleep(1.0)

    def _check_shards(self) -> None:
        """Raise `Violation` where a shard that was done is another now."""
        if self._jobs is None:
            file = self.world.folder / "jobs.db"
            if not self.job or not file.exists():
                return
            self._jobs = sqlite3.connect(file)
        for seq, manifest in self._jobs.execute(
            "SELECT seq, manifest FROM shard WHERE state = 'done'"
        ):
            if self._done.setdefault(seq, manifest) != manifest:
                raise Violation(
                    f"shard {seq} was done with {self._done[seq]}, and is with {manifest}"
                )

    async def _check_job(self) -> None:
        """Raise `Violation` unless the job ends, with one result of each row."""
        router = self.world.routers[0]
        answer = LOST
        shown: dict[str, Any] = {}
        for _ in range(JOB_ENDS_S):
            answer = await self._call(router, "GET", f"/v1/jobs/{self.job}")
            shown = answer.json() if answer.status == 200 else dict[str, Any]()
            if shown.get("state") in {"completed", "failed", "expired", "cancelled"}:
                break
            if shown.get("state") == "paused":  # for a person to make room on the disk
                path = f"/v1/jobs/{self.job}/resume"
                await self._call(router, "POST", path)
            await asyncio.sleep(1.0)
        done = shown.get("done", {"rows": 0, "bad_rows": 0})
        if shown.get("state") != "completed" or done["rows"] + done["bad_rows"] != self.rows:
            raise Violation(f"the job of {self.rows} rows does not end: {answer}")
        if done["bad_rows"] and not self.until_s:
            raise Violation(f"{done['bad_rows']} rows of the job failed though nothing was wrong")
        path = f"/v1/jobs/{self.job}/results?from_row=0&rows={2 * self.rows}"
        answer = await self._call(router, "GET", path)
        got = [json.loads(line) for line in answer.body.splitlines()]
        rows = [each["row"] for each in got]
        if rows != sorted(set(rows)) or len(rows) != done["rows"]:
            raise Violation(f"the job has {done['rows']} results, but shows those of {rows}")
        for each in got:
            wanted = model.answer_to(FIRST_OF_JOB + each["row"])
            if each["outputs"]["y"][0] != wanted:
                raise Violation(f"row {each['row']} of the job has {each['outputs']}, not {wanted}")
        parts: list[dict[str, Any]] = []
        has_more = True
        while has_more:
            path = f"/v1/jobs/{self.job}/parts?limit=100"
            if parts:
                path += f"&after={parts[-1]['seq']}"
            page = (await self._call(router, "GET", path)).json()
            parts += page["data"]
            has_more = page["has_more"]
        if sum(part["rows"] + part["bad_rows"] for part in parts) != self.rows:
            raise Violation(f"the parts of the job of {self.rows} rows are not whole: {parts}")
        self.world.say(f"the job has {done['rows']} results in {len(parts)} parts")

    # faults

    def _plan(self) -> Iterator[tuple[float, Callable[[], Any]]]:
        """Yield the times of faults, and the faults."""
        rng = self.rng
        for name in self._faults:
            yield rng.uniform(0.0, 6.0), getattr(self, f"_{name}")
        if self._faults:
            return
        has_workers = any(host.workers is not None for host in self.world.routers)
        faults = [
            self._kill, self._freeze, self._part, self._reset, self._slow, self._jump, self._drain,
            self._drain, self._ill, self._all_ill, self._lie, self._revoke,
            *[self._fill] * (2 * bool(self.rows)), *[self._kill_worker] * (6 * has_workers),
            *[self._revoke_key] * (2 * (self.keys is not None)),
        ]  # fmt: skip
        if self.rows and rng.random() < 0.5:
            yield rng.uniform(0.5, 6.0), rng.choice((self._freeze_router, self._kill_router))
        for _ in range(rng.choice((0, 1, 2, 4))):
            yield rng.uniform(0.0, DURATION_S * 0.8), rng.choice(faults)

    async def _later(self, at_s: float, fault: Callable[[], Any]) -> None:
        await asyncio.sleep(at_s)
        await fault()

    def _wrong(self, for_s: float, *, is_cut: bool = True) -> None:
        """Take down that requests may fail for a while, and that not all is heard in time."""
        self.until_s = max(self.until_s, self.world.loop.time() + for_s + AFTER_S)
        if is_cut:
            self.cut_s = self.until_s

    def _victim(self) -> Host:
        world = self.world
        return self.rng.choice(world.nodes if self.rng.random() < 0.7 else world.routers)

    async def _kill(self) -> None:
        await self._kill_for(self._victim(), self.rng.uniform(0.05, 8.0))

    async def _kill_for(self, host: Host, for_s: float) -> None:
        if host.machine is None:
            return
        self._wrong(for_s)
        self.world.kill(host)
        await asyncio.sleep(for_s)
        self.world.start(host)

    async def _kill_node(self) -> None:
        await self._kill_for(self.rng.choice(self.world.nodes), self.rng.uniform(0.05, 8.0))

    async def _kill_worker(self) -> None:
        """Kill one process of a router, or let it stand still until its main process kills it."""
        processes = [
            (host, each)
            for host in self.world.routers
            if host.workers is not None
            for each in host.workers.processes
        ]
        if processes:
            host, process = self.rng.choice(processes)
            is_killed = self.rng.random() < 0.5
            self._wrong(0.0 if is_killed else SILENT_S)
            self.world.say(f"a worker of {host.name} is {'killed' if is_killed else 'frozen'}")
            if is_killed:
                process.kill()
            else:
                self.world.loop.freeze(process.machine)

    async def _freeze(self) -> None:
        await self._freeze_for(self._victim(), self.rng.uniform(0.05, 10.0))

    async def _freeze_router(self) -> None:
        """Freeze a router for longer than its leases hold."""
        await self._freeze_for(self.rng.choice(self.world.routers), self.rng.uniform(16.0, 20.0))

    async def _kill_router(self) -> None:
        await self._kill_for(self.rng.choice(self.world.routers), self.rng.uniform(0.05, 8.0))

    async def _freeze_for(self, host: Host, for_s: float) -> None:
        machine = host.machine
        if machine is None or machine.is_halted:
            return
        self._wrong(for_s)
        self.world.freeze(host)
        await asyncio.sleep(for_s)
        if host.machine is machine and machine.is_halted:
            self.world.thaw(host)

    async def _part(self) -> None:
        """Let nothing through between two hosts, in one direction or both."""
        rng, world = self.rng, self.world
        a, b = rng.choice(world.routers).address, rng.choice(world.nodes).address
        ways = [(a, b), (b, a)] if rng.random() < 0.7 else [rng.choice([(a, b), (b, a)])]
        for_s = rng.uniform(0.05, 12.0)
        self._wrong(for_s)
        world.say(f"nothing comes through: {ways}")
        for way in ways:
            world.loop.network.cut(*way)
        await asyncio.sleep(for_s)
        world.say(f"healed: {ways}")
        for way in ways:
            world.loop.network.heal(*way)

    async def _reset(self) -> None:
        rng, world = self.rng, self.world
        a, b = rng.choice(world.routers).address, rng.choice(world.nodes).address
        self._wrong(0.0)
        world.say(f"connections are reset: {a}, {b}")
        world.loop.network.reset(a, b)

    async def _slow(self) -> None:
        host = self.rng.choice(self.world.nodes)
        usual, host.slowness = host.slowness, self.rng.choice((5.0, 20.0, 100.0))
        for_s = self.rng.uniform(1.0, 10.0)
        self._wrong(for_s, is_cut=False)
        self.world.say(f"{host.name} is slow: {host.slowness:g} times")
        await asyncio.sleep(for_s)
        host.slowness = usual

    async def _jump(self) -> None:
        host = self._victim()
        host.skew_s = self.rng.choice((-1.0, 1.0)) * self.rng.choice((1.0, 30.0, 3600.0))
        self.world.say(f"{host.name}'s clock jumps by {host.skew_s:g} s")

    async def _drain(self) -> None:
        """Stop a node as its operator does, while others serve; no request may fail for that."""
        world = self.world
        host = self.rng.choice(world.nodes)
        serving = [each for each in world.nodes if each.process is not None]
        if (
            host.process is None
            or host.machine is None
            or host.machine.is_halted
            or len(serving) < 2
        ):
            return
        machine, usual = host.machine, host.slowness
        host.slowness = DRAIN_SLOWNESS  # so that something runs that must not be cut
        await asyncio.sleep(0.3)
        if host.machine is not machine or machine.is_halted:
            return
        world.say(f"{host.name} drains")
        with machine.here():
            draining = world.loop.create_task(host.process.drain())
        with self.clients.here():
            await asyncio.wait({draining}, timeout=DRAIN_S)
        host.slowness = usual
        if host.machine is not machine:
            return
        world.kill(host)
        await asyncio.sleep(self.rng.uniform(0.5, 3.0))
        world.start(host)

    async def _ill(self) -> None:
        """Let all runs of a node fail."""
        host, for_s = self.rng.choice(self.world.nodes), self.rng.uniform(1.0, 10.0)
        self._wrong(for_s, is_cut=False)
        self.world.say(f"{host.name} fails")
        host.fault = RunFailed("the run failed, as the story has it")
        await asyncio.sleep(for_s)
        host.fault = None

    async def _all_ill(self) -> None:
        """Let all runs fail everywhere: retries must not make it worse."""
        world, for_s = self.world, self.rng.uniform(2.0, 10.0)
        self._wrong(for_s, is_cut=False)
        world.say("all nodes fail")
        before = self._again(), self.asked
        self._set_faults(RunFailed("the run failed, as the story has it"))
        await asyncio.sleep(for_s)
        self._set_faults(None)
        again, asked = self._again() - before[0], self.asked - before[1]
        paid = len(world.routers) * RESERVE + RETRY_SHARE * (asked + TTL_S * MOST_RATE)
        if again > paid:
            raise Violation(f"{asked} requests were retried {again} times; the budget is {paid:g}")

    def _again(self) -> int:
        """Return how often requests were sent once more."""
        routers: list[Any] = [router for host in self.world.routers for router in host.routers]
        return sum(
            sum(router._parts.telemetry._attempts_extra.values())  # noqa: SLF001
            for router in routers
        )

    def _set_faults(self, error: CapameshError | None) -> None:
        for host in self.world.nodes:
            host.fault = error

    async def _lie(self) -> None:
        """Let a node say of good requests that they are wrong: where others know better, no caller is told so."""
        host, for_s = self.rng.choice(self.world.nodes), self.rng.uniform(1.0, 10.0)
        if self.is_once:
            return
        self.world.say(f"{host.name} lies")
        host.fault = InvalidRequest("the request is wrong, says a liar")
        await asyncio.sleep(for_s)
        host.fault = None

    async def _fill(self) -> None:
        """Let the disk of jobs be full: no request fails for that, and the job goes on later."""
        self.world.say("the disk is full")
        with full_disk([router for host in self.world.routers for router in host.routers]):
            await asyncio.sleep(self.rng.uniform(0.5, 15.0))
        self.world.say("the disk has room")

    async def _revoke(self) -> None:
        """Shut a node out, which goes on as if it had not heard."""
        world = self.world
        host = self.rng.choice(world.nodes)
        router = self.rng.choice(world.routers)
        if len(world.nodes) < 3 or any(each.is_revoked for each in world.nodes):
            return
        if router.process is None or router.machine is None or router.machine.is_halted:
            return
        self._wrong(0.0)
        world.say(f"{host.name} is revoked")
        host.is_revoked = True
        network = members.owner()
        empty = RevocationList.empty(network.network_id)
        peer = members.member(Role.NODE, world.nodes.index(host)).identity.peer_id
        revoked = network.revoke(empty, peers=[peer], invites=(), now=members.START)
        with router.machine.here():
            router.process._parts.revocations.post(revoked.encode())  # noqa: SLF001

    async def _revoke_key(self) -> None:
        """Revoke a key whose clients go on with it."""
        if self.keys is not None:
            self.world.say("a key is revoked")
            self.keys.revoke()

    def _heal(self) -> None:
        """Let all be well again."""
        world = self.world
        for host in world.routers + world.nodes:
            host.skew_s = 0.0
            host.slowness = 1.0
            host.fault = None
            if any(each.is_halted for each in host.machines):
                world.thaw(host)
        world.bus.loss = 0.0

    # what must be true

    async def _look(self) -> None:
        """Look all along at what must be true at any time."""
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = self.world.loop.time()
            for host in self.world.nodes:
                self._check_work(host)
            self._check_shards()
            for number, asked in self.open.items():
                late_s = now_s - asked.began_s - TIMEOUT_S - SLACK_S
                if late_s > 0 and now_s > self.until_s:
                    raise Violation(f"client {number} got no answer of {asked.router.name} in time")

    def _check_work(self, host: Host) -> None:
        """Raise `Violation` where a node works for clients that have long had their answer."""
        if host.process is None or host.machine is None or host.machine.is_halted:
            return
        now_s = self.world.loop.time()
        wanted = {asked.x for asked in self.open.values()}
        for _, request in host.process.service._requests.values():  # noqa: SLF001
            if not request.inputs:  # of the language model, once it is read
                continue
            x = float(request.inputs[0].to_numpy()[0, 0])
            over_s = now_s - self.over_s.get(x, now_s)
            if x < FIRST_OF_JOB and x not in wanted and over_s > WORK_S and now_s > self.cut_s:
                raise Violation(
                    f"{host.name} still works for {x:g}, which was over {over_s:.1f} s ago"
                )

    async def _check_end(self) -> None:
        world = self.world
        if self.is_once:
            ran = Counter(
                x for host in world.nodes for run in host.ran for x in run if x < FIRST_OF_LAST
            )
            twice = [x for x, count in ran.items() if count > 1]
            if twice:
                raise Violation(f"these ran twice, which they may not: {twice[:5]}")
        for host in world.routers + world.nodes:
            if host.process is None:
                raise Violation(f"{host.name} does not run at the end")
        key = "" if self.keys is None else self.keys.good
        for host in world.routers:
            for number in range(LAST):
                answer = await self._infer(host, FIRST_OF_LAST + number, 1, key)
                if answer.status != 200:
                    raise Violation(f"{host.name} does not answer at the end: {answer}")
        for host in world.nodes:
            if host.is_revoked and any(
                FIRST_OF_LAST <= x < FIRST_OF_JOB for run in host.ran for x in run
            ):
                raise Violation(f"{host.name} was revoked, and is asked all the same")
        if self.rows:
            await self._check_job()
        await asyncio.sleep(SLACK_S)
        left = [
            f"{name} of {host.name}: {count}"
            for host in world.routers
            for router in host.routers
            for name, count in router_counters(router).items()
            if count
        ]
        left += [
            f"{name} of {host.name}: {count}"
            for host in world.nodes
            for name, count in node_counters(host.process).items()
            if count
        ]
        if left:
            raise Violation(f"left at the end: {'; '.join(left)}")


def heard(answer: Answer) -> tuple[list[str], str]:
    """Return the words of a stream of events, and its last event."""
    events = [
        line[len("data: ") :]
        for line in answer.body.decode().split("\n")
        if line.startswith("data: ")
    ]
    said = [json.loads(event) for event in events if event.startswith("{")]
    words = "".join(
        choice["text"] for event in said for choice in event.get("choices", ()) if "text" in choice
    )
    return [*words.split()], events[-1] if events else ""


def router_counters(router: Any) -> dict[str, int]:  # noqa: ANN401 - what only this looks at
    """Return all that counts requests under way in a router, by name."""
    parts = router._parts  # noqa: SLF001
    endpoints, balancer = list(parts.fleet.endpoints()), parts.balancer
    return {
        "requests": parts.requests.count,
        "in flight at endpoints": sum(abs(each.rif) for each in endpoints),
        "in flight at replicas": sum(
            abs(replica.rif) for served in balancer.served_models() for replica in served.replicas
        ),
        "waiting for a link": len(balancer.links),
        "waiting for a sign of life": len(balancer.lives),
        "let in": balancer.under_way,
        "copies": len(parts.routing.pipeline.copies),
        "answers' claims": parts.answers.waiting,
        "bodies' bytes": router._fronts.clients.budget.used_bytes,  # noqa: SLF001
    }


def node_counters(node: Any) -> dict[str, int]:  # noqa: ANN401 - likewise
    """Return all that counts requests under way at a node, by name."""
    return {
        "requests": len(node.service._requests),  # noqa: SLF001
        "in flight": node.service.load_report().in_flight,
        "queued": node.service.load_report().queued,
    }


def main() -> None:
    """Play a seed and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    story = Story(parser.parse_args().seed)
    try:
        story.play()
    finally:
        lines = [*story.world.lines, f"{story.asked} asked, {story.failed} failed"]
        sys.stdout.write("\n".join([*lines, story.world.trace.hexdigest(), ""]))


if __name__ == "__main__":
    main()
