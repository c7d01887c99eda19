"""Measures what the router's page costs: bytes, processor time for viewers, requests beside them, and the browser's time.

`python benchmarks/page.py [--nodes 1000,10000] [--models 50] [--viewers 20] [--seconds 9]`. The router is a real core and
front with a made-up fleet, of which a tenth changes each second; viewers and a client of requests run in processes of
their own. With its defaults it takes two minutes, and says of each bar whether it held. The browser's part needs a Chromium (Debian: chromium-headless-shell).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "scripts")]

from browser import browser, chromium_path  # noqa: E402 - they lie beside the tests
from page_fleets import join, large  # noqa: E402
from router_http import Http, serving  # noqa: E402

from capamesh.protocol import gc_tuning  # noqa: E402

REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 0.5]}]}
PATH = "/v2/models/model-0/infer"
PAUSE_S = 0.01
"""Seconds between two requests of the client: the router is far from busy."""
MOST_PAINT_MS = 1_000
MOST_ACT_MS = 200
"""The most milliseconds from what a person does to the frame that shows it (web.dev calls 200 a good interaction to next paint)."""
TOLD_MS = 50
"""The shortest task of which a browser tells."""
MOST_PACKED_BYTES = 300_000
MOST_SHARE = 0.03
"""The most of a core that all viewers together may take."""
MOST_LATER = 1.1
"""The most by which the 99th percentile of requests may grow with viewers: as much as it differs between two runs."""


async def follow(url: str) -> None:
    """Follow the page's stream until the process is ended."""
    async with aiohttp.ClientSession(url) as session:
        while True:
            snapshot = await (await session.get("/v1/page/snapshot")).json()
            async with session.get(
                f"/v1/page/changes?after={snapshot['revision']}", timeout=aiohttp.ClientTimeout()
            ) as reply:
                async for _ in reply.content.iter_any():
                    pass


async def view(url: str, viewers: int) -> None:
    """Be so many viewers."""
    await asyncio.gather(*(follow(url) for _ in range(viewers)))


async def ask(url: str, seconds: float) -> None:
    """Send one request after the other, and print the latencies' median and 99th percentile in milliseconds."""
    took: list[float] = []
    async with aiohttp.ClientSession(url) as session:
        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            began_s = time.perf_counter()
            async with session.post(PATH, json=REQUEST) as reply:
                await reply.read()
            took.append((time.perf_counter() - began_s) * 1e3)
            await asyncio.sleep(PAUSE_S)
    took.sort()
    print(json.dumps({"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}))


async def child(*arguments: str) -> asyncio.subprocess.Process:
    """Start this program in another role."""
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, *arguments, stdout=asyncio.subprocess.PIPE
    )


async def change(http: Http) -> None:
    """Let a tenth of the fleet change each second."""
    rng = random.Random(1)  # noqa: S311 - a benchmark
    while True:
        for endpoint in rng.sample(http.endpoints, len(http.endpoints) // 100):
            endpoint.answered += 1
        await asyncio.sleep(0.1)


async def loaded(http: Http, url: str, viewers: int, seconds: float) -> dict[str, float]:
    """Return the processor time a second of this process, and the latencies of requests, with so many viewers."""
    watching = (
        await child("--role", "view", "--url", url, "--viewers", str(viewers)) if viewers else None
    )
    if watching is not None:
        await asyncio.sleep(3)
    idle_s, began_s = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    share = (time.process_time() - idle_s) / (time.perf_counter() - began_s)
    asking = await child("--role", "ask", "--url", url, "--seconds", str(seconds))
    output, _ = await asking.communicate()
    if watching is not None:
        watching.terminate()
        await watching.wait()
    return {"share": share, **json.loads(output)}


USE = """
(async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  const took = async (act) => { await frame(); const began = performance.now(); act(); await frame(); return performance.now() - began; };
  const middle = (all) => all.sort((a, b) => a - b)[Math.floor(all.length / 2)];
  const box = document.querySelector('.scroll'), find = document.querySelector('input[type=search]');
  const typed = (text) => took(() => { find.value = text; find.dispatchEvent(new Event('input')); });
  const scrolls = [];
  for (let at = 1; at <= 60; at += 1) scrolls.push(await took(() => { box.scrollTop = box.scrollHeight * at / 60; }));
  const rows = document.querySelectorAll('tr.row').length;
  const filters = [];
  for (const text of ['f', 'fr', 'fra', 'fra-gpu-4', 'nothing such', '']) filters.push(await typed(text));
  const sorts = [];
  for (const button of document.querySelectorAll('th button')) sorts.push(await took(() => button.click()));
  return { rows, scroll_ms: middle([...scrolls]), scroll_worst_ms: Math.max(...scrolls), filter_ms: Math.max(...filters), sort_ms: Math.max(...sorts) };
})()
"""
"""The script that does what a person does with the table of nodes, and tells how long it takes until the frame that shows it."""


WATCH = """
(() => {
  let longest = 1;
  new PerformanceObserver((list) => { for (const each of list.getEntries()) longest = Math.max(longest, each.duration); }).observe({ type: 'longtask' });
  new MutationObserver(() => setTimeout(() => { window.updated = longest; }, 500))
    .observe(document.querySelector('main [role=status]'), { childList: true, characterData: true, subtree: true });
})()
"""
"""The script that keeps the longest task of the page, of those that a browser tells of, until the number of nodes has changed."""


async def viewed(url: str, change_one: Callable[[], None]) -> dict[str, float]:
    """Return the browser's first paint and first row, in milliseconds since it was sent to the page, and how usable it is then."""
    path = chromium_path()
    if path is None:
        return {}
    async with browser(path) as new_tab:
        tab = await new_tab()
        await tab.resize(1280, 900)
        await tab.open(url)
        found = {
            "rows_ms": await tab.wait_for("document.querySelector('tr.row') && performance.now()"),
            "paint_ms": await tab.wait_for(
                "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            ),
            "heap_mib": await tab.run("performance.memory.usedJSHeapSize / 2**20"),
        }
        await tab.wait_for("document.querySelector('.live.on') !== null")
        found |= await tab.run(USE)
        await tab.run(WATCH)
        change_one()
        found["update_ms"] = await tab.wait_for("window.updated")
    return found


def bar(what: str, measured: float, most: float, unit: str) -> None:
    """Print whether a bar held."""
    verdict = "held" if measured <= most else "MISSED"
    print(f"  bar {verdict}: {what} {measured:.1f}{unit}, at most {most:.1f}{unit}", flush=True)


async def measure(nodes: int, models: int, viewers: int, seconds: float) -> None:
    """Print what one size of fleet costs."""
    gc_tuning.freeze_loaded_objects()  # as a router does
    async with serving(policy="prequal") as http:
        began_s = time.perf_counter()
        large(http.fleet, nodes, models)
        print(
            f"made {nodes} nodes x {models} models in {time.perf_counter() - began_s:.1f} s",
            flush=True,
        )
        url = f"http://{http.client.host}:{http.client.port}"
        plain = await (await http.client.get("/v1/page/snapshot")).read()
        packed = len(zlib.compress(plain, 5))
        print(f"  snapshot {len(plain) / 1e3:.0f} KB, {packed / 1e3:.0f} KB as gzip")
        view = await viewed(url, lambda: join(http.fleet, nodes, ()))
        if view:
            print(
                f"  first paint {view['paint_ms']:.0f} ms, first row {view['rows_ms']:.0f} ms,"
                f" {view['heap_mib']:.0f} MiB in the browser, {view['rows']:.0f} rows in the document"
            )
            print(
                f"  until it is shown: a scroll {view['scroll_ms']:.0f} ms, at worst {view['scroll_worst_ms']:.0f};"
                f" a filter {view['filter_ms']:.0f}, a sort {view['sort_ms']:.0f} at worst;"
                f" an update keeps it for {max(TOLD_MS, view['update_ms']):.0f} ms at most",
                flush=True,
            )
            bar("first paint", view["paint_ms"], MOST_PAINT_MS, " ms")
            for act in ("scroll_worst", "filter", "sort", "update"):
                bar(act.replace("_", ", "), view[f"{act}_ms"], MOST_ACT_MS, " ms")
        bar("snapshot as gzip", packed / 1e3, MOST_PACKED_BYTES / 1e3, " KB")
        measured: list[dict[str, float]] = []
        changing = asyncio.create_task(change(http))
        for count in (0, 1, viewers):
            measured.append(found := await loaded(http, url, count, seconds))
            print(
                f"  {count:2} viewers: {found['share'] * 100:.1f} % of a core; requests p50 {found['p50']:.2f} ms,"
                f" p99 {found['p99']:.2f} ms",
                flush=True,
            )
        changing.cancel()
        none, *_, all_of_them = measured
        share = all_of_them["share"] - none["share"]
        bar(f"{viewers} viewers", share * 100, MOST_SHARE * 100, " % of a core")
        bar("p99 with viewers", all_of_them["p99"] / none["p99"], MOST_LATER, " times that without")


def main() -> None:
    """Measure, or be a viewer or a client."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", default="1000,10000")
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=9)
    parser.add_argument(
        "--role", choices=("router", "view", "ask"), default="router", help=argparse.SUPPRESS
    )
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "view":
        asyncio.run(view(given.url, given.viewers))
    elif given.role == "ask":
        asyncio.run(ask(given.url, given.seconds))
    else:
        for nodes in given.nodes.split(","):
            asyncio.run(measure(int(nodes), given.models, given.viewers, given.seconds))
        print(
            f"load of this machine {os.getloadavg()[0]:.1f}: bars of time hold on a quiet one, below 2"
        )


if __name__ == "__main__":
    main()
