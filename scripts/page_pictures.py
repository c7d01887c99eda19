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
from router_http import serving  # noqa: E402

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


async def draw(into: Path) -> None:
    """Write all pictures."""
    path = chromium_path()
    if path is None:
        raise SystemExit(
            "there is no Chromium here; on Debian: apt-get install chromium-headless-shell"
        )
    async with serving() as http, browser(path) as new_tab:
        troubled(http.fleet)
        http.pool.errors["10.0.0.7:4100"] = "the connection was refused"
        rng = random.Random(1)  # noqa: S311 - a picture
        http.fill_history(360, lambda: rng.gauss(1.0, 0.08))
        tab = await new_tab()
        await tab.open(f"http://{http.client.host}:{http.client.port}/")
        await tab.wait_for("document.querySelector('.live.on') !== null")
        for name, view, theme, is_phone in PICTURES:
            width, height = (390, 844) if is_phone else (1280, 860)
            await tab.resize(width, height, is_phone=is_phone)
            await tab.prefer(theme)
            await tab.run(f"location.hash = '#/{view}'")
            await asyncio.sleep(PAUSE_S)
            (into / f"page-{name}.png").write_bytes(await tab.picture())
            print(f"drew {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "pictures")
    folder: Path = parser.parse_args().into
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(folder))
