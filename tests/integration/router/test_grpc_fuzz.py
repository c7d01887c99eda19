"""Made-up clients of gRPC, sound and broken, and routers over HTTP/2 by hand and by a library: see `grpc_fuzz`."""

from __future__ import annotations

from fleet_fakes import in_virtual_time
from fuzz_cases import seeds
from grpc_fuzz import fuzz


@in_virtual_time
async def test_routers_answer_made_up_clients_alike_however_they_speak_http2() -> None:
    cases = seeds(60)
    counts = await fuzz(cases)
    assert counts["cases"] == len(cases)
    assert 0.3 * len(cases) < counts["sound"] < 0.7 * len(cases)
    assert counts["answered_by_all"] > len(cases)
    assert counts["sound_messages"] > 0.5 * counts["messages"]
