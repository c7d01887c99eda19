"""Draws the pictures of the page for the documents: each view, light and dark, on a desktop and a phone. IO: a browser.

`python scripts/page_pictures.py [--into docs/pictures]` needs a Chromium (Debian: chromium-headless-shell). The router is a
real core with a made-up fleet, in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

from browser import browser, chromium_path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from page_fleets import peer_of, troubled  # noqa: E402 - they lie beside the tests
from router_http import Http, serving  # noqa: E402

from capamesh.protocol.errors import DeadlineExceeded, Overloaded  # noqa: E402
from capamesh.router.telemetry.tracing import AttemptTimes, RequestTimes  # noqa: E402

PAUSE_S = 1.5
"""Seconds for which a view may settle before it is drawn."""
PICTURES = (
    ("fleet", "fleet", "light", False),
    ("fleet-dark", "fleet", "dark", False),
    ("fleet-phone", "fleet", "light", True),
    ("models", "models", "light", False),
    ("model", "model/digits", "light", False),
    ("model-phone", "model/digits", "dark", True),
    ("node", f"node/{peer_of(21)}", "light", False),
    ("request", "request/digits", "light", False),
    ("links", "links", "dark", False),
    ("history", "history", "light", False),
    ("history-phone", "history", "dark", True),
)
"""The name, the view, the theme of each picture, and whether it is on a phone."""


def end_some(http: Http) -> None:
    """Let some requests have failed, and some have taken long."""
    now_s = http.fleet.clock()

    def attempt(
        at: int, after_s: float, took_s: float, outcome: str, *at_node: float
    ) -> AttemptTimes:
        began_s = now_s - 30 + after_s
        address = f"10.0.0.{at}:4100"
        return AttemptTimes(peer_of(at), address, began_s, began_s + took_s, outcome, *at_node)

    def ended(model: str, code: str, took_s: float, *attempts: AttemptTimes) -> None:
        began_s = now_s - 30
        http.ended.ended(RequestTimes(model, "1", code, began_s, began_s + took_s, attempts))

    for _ in range(14):
        http.ended.failed("clip-vit", Overloaded("all 26 nodes that have the model are full"))
    ended("clip-vit", "overloaded", 0.004)
    http.ended.failed("digits", DeadlineExceeded("no answer within 2 s, from 2 nodes asked"))
    lost = "link_lost: the node closed it"
    ended(
        "digits",
        "deadline_exceeded",
        2.0,
        attempt(7, 0.001, 0.4, lost),
        attempt(13, 0.41, 1.59, "given up"),
    )
    ended("whisper-small", "ok", 1.21, attempt(12, 0.001, 1.2, "answered", 0.35, 0.83))
    ended(
        "whisper-small",
        "ok",
        1.64,
        attempt(21, 0.001, 0.52, lost),
        attempt(4, 0.54, 1.1, "answered", 0.12, 0.94),
    )


async def draw(into: Path) -> None:
    """Write all pictures."""
    path = chromium_path()
    if path is None:
        raise SystemExit(
            "there is no Chromium here; on Debian: apt-get install chromium-headless-shell"
        )
    async with serving() as http, browser(path) as new_tab:
        troubled(http.fleet, is_hostile=False)
        http.unreachable("10.0.0.7:4100", "the connection was refused")
        rng = random.Random(1)  # noqa: S311 - a picture
        http.fill_history(360, lambda: rng.gauss(1.0, 0.08))
        end_some(http)
        tab = await new_tab()
        await tab.open(f"http://{http.client.host}:{http.client.port}/")
        await tab.wait_for("document.querySelector('.live.on') !== null")
        for name, view, theme, is_phone in PICTURES:
            width, height = (390, 844) if is_phone else (1280, 860)
            await tab.resize(width, height, is_phone=is_phone)
            await tab.prefer(theme)
            await tab.run(f"location.hash = '#/{view}'")
            if view.startswith("request"):
                await tab.wait_for(
                    "document.querySelector('details.kind') && (document.querySelector('details.kind').open = true)"
                )
            await asyncio.sleep(PAUSE_S)
            (into / f"page-{name}.png").write_bytes(await tab.picture())
            print(f"drew {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "pictures")
    folder: Path = parser.parse_args().into
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(folder))
