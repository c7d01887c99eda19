"""Sends requests through a router's own code on one event loop, without a socket, and prints the CPU time of each.

    python benchmarks/hot_path.py REQUEST COUNT

REQUEST is json (32 bytes of numbers as text), binary (1 KiB) or large (600 KB), or grpc or grpc_large for the last two over
gRPC. What runs is the front, the pipeline, a
policy and links, and at the other end of each link its core and a node that answers at once. The same counts give the
same work on any machine, so that `speed_check.py` can count instructions. It prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

import virtual_time  # noqa: E402 - it lies in the folder that was just added
from warm_requests import JSON, WarmWorld, binary_of, message_of, warm  # noqa: E402 - likewise

import capamesh.router  # noqa: E402 - likewise
from capamesh.protocol.gc_tuning import freeze_loaded_objects  # noqa: E402 - likewise

REQUESTS = {
    "json": JSON,
    "binary": binary_of(128),
    "large": binary_of(75_264),
    "grpc": message_of(128),
    "grpc_large": message_of(75_264),
}


async def run(request: bytes, count: int) -> float:
    """Send a request again and again; return the seconds of CPU time that took."""
    world: WarmWorld = await warm(request)
    freeze_loaded_objects()
    world.client.sent.clear()
    began_s = time.process_time()
    for _ in range(count):
        world.ask()
        await world.answer()
    used_s = time.process_time() - began_s
    answered = world.client.sent.count(world.answered)
    if answered != count:
        raise SystemExit(f"{answered} of {count} requests were answered")
    return used_s


def main() -> None:
    """Send and print."""
    request, count = REQUESTS[sys.argv[1]], int(sys.argv[2])
    used_s = virtual_time.run(run(request, count))
    print(json.dumps({"cpu_s": used_s, "code": str(Path(capamesh.router.__file__ or "").parent)}))


if __name__ == "__main__":
    main()
