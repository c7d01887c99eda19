"""A router's clocks: the mesh's stands still while nothing can be heard, the others go on."""

from __future__ import annotations

from capamesh.router.fleet.clocks import Clocks
from capamesh.router.fleet.hearing import Now


def test_mesh_s_clock_stands_still_until_it_is_resumed_and_while_it_is_paused() -> None:
    passed_s = 0.0
    clocks = Clocks(wall_ns=lambda: int((1_000 + passed_s) * 1e9), steady_s=lambda: 50.0 + passed_s)
    passed_s = 1.0
    assert clocks.now() == Now(1_001_000, 51.0, 0.0)
    clocks.resume()
    passed_s = 2.0
    assert clocks.now() == Now(1_002_000, 52.0, 1.0)
    clocks.pause()
    passed_s = 3.0
    assert clocks.now() == Now(1_003_000, 53.0, 1.0)
