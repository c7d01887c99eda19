"""The rules that must hold when a simulation is over, whatever happened in it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capamesh.simulation.errors import InvariantBroken

if TYPE_CHECKING:
    from capamesh.simulation.events import Events
    from capamesh.simulation.network import Network
    from capamesh.simulation.node import SimNode
    from capamesh.simulation.results import Recorder
    from capamesh.simulation.router import SimRouter


def check_over(
    events: Events,
    recorder: Recorder,
    routers: Sequence[SimRouter],
    nodes: Sequence[SimNode],
    network: Network,
) -> None:
    """Raise `InvariantBroken` unless each request has its one outcome and nothing of any is left."""
    counters = {
        "requests without an outcome": recorder.open,
        "events to come": len(events),
        "requests pending at links": network.pending(),
    }
    for index, router in enumerate(routers):
        counters |= {f"{name}, router {index}": n for name, n in router.counters().items()}
    counters |= {f"in flight at {node!r}": node.device_in_flight() for node in nodes}
    left = [f"{name}: {count}" for name, count in counters.items() if count]
    if left:
        raise InvariantBroken(f"at the end there must be none, but there are {'; '.join(left[:8])}")
