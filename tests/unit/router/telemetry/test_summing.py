"""The metrics of several processes, added up."""

from __future__ import annotations

from capamesh.router.telemetry.summing import Sum


def family(name: str, kind: str, *samples: str) -> str:
    return "\n".join((f"# HELP {name} Some words.", f"# TYPE {name} {kind}", *samples, ""))


def summed(*texts: str) -> list[str]:
    whole = Sum()
    for text in texts:
        whole.add(text.encode())
    return [line for line in whole.text().decode().splitlines() if not line.startswith("#")]


def test_gauges_are_added_or_the_least_or_the_first_by_what_they_mean() -> None:
    def process(in_flight: int, usable: int, nodes: int) -> str:
        return (
            family(
                "capamesh_requests_in_flight", "gauge", f"capamesh_requests_in_flight {in_flight}"
            )
            + family(
                "capamesh_fleet_usable", "gauge", f'capamesh_fleet_usable{{node="a"}} {usable}'
            )
            + family("capamesh_nodes", "gauge", f'capamesh_nodes{{state="usable"}} {nodes}')
        )

    assert summed(process(2, 1, 7), process(3, 0, 6)) == [
        "capamesh_requests_in_flight 5.0",
        'capamesh_fleet_usable{node="a"} 0.0',
        'capamesh_nodes{state="usable"} 7.0',
    ]
