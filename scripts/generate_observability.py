"""Writes `deploy/observability`: Prometheus' configuration and alerts, and Grafana's dashboards, from the metrics' definitions.

`make observability` runs it. With `--check` it writes nothing, and its exit status says whether the files are as they should be.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from observability_alerts import rules
from observability_dashboards import DASHBOARDS
from observability_panels import body

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "observability"
NOTE = "# Made by scripts/generate_observability.py: change that, then run `make observability`.\n"
NODE_PORT = 9100
"""The port of a node's metrics in what is written here."""
SCRAPE_S = 5
"""Seconds between two scrapes (guess: a page of a router takes it a millisecond or two)."""


def scraping(routers: list[str], nodes: list[str], found_as: str = "") -> str:
    """Return a configuration of Prometheus, for members at these addresses.

    `found_as`: a name whose addresses in the DNS are further nodes, now and later.
    """
    found = f"""    dns_sd_configs:
      - names: ["{found_as}"]
        type: A
        port: {NODE_PORT}
        refresh_interval: {SCRAPE_S}s
"""

    def job(name: str, targets: list[str]) -> str:
        listed = "".join(f'          - "{target}"\n' for target in targets)
        return f"  - job_name: capamesh-{name}\n    static_configs:\n      - targets:\n{listed}"

    return f"""{NOTE}global:
  scrape_interval: {SCRAPE_S}s
  evaluation_interval: {SCRAPE_S}s
rule_files:
  - alerts.yml
scrape_configs:
{job("router", routers)}{job("node", nodes)}{found if found_as else ""}"""


def files() -> dict[Path, str]:
    """Return the text of each file."""
    dashboards = {
        FOLDER / "dashboards" / f"{each.uid}.json": json.dumps(body(each), indent=1) + "\n"
        for each in DASHBOARDS
    }
    return {
        FOLDER / "prometheus.yml": scraping(["127.0.0.1:8000"], [f"127.0.0.1:{NODE_PORT}"]),
        FOLDER / "prometheus.compose.yml": scraping(
            ["router:8000"],
            [f"node-{number}:{NODE_PORT}" for number in (1, 2, 3)],
            "more-nodes",
        ),
        FOLDER / "alerts.yml": NOTE + rules(),
        **dashboards,
    }


def main() -> int:
    """Write the files, or say which are not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is old")
    is_check = parser.parse_args().check
    old = {
        file: text
        for file, text in files().items()
        if not file.exists() or file.read_text() != text
    }
    for file, text in old.items():
        if is_check:
            print(f"{file.relative_to(ROOT)} is not what the code says; run: make observability")
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            print(f"wrote {file.relative_to(ROOT)}")
    return int(is_check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
