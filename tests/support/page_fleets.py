"""Fleets for the page: one in which something of everything is wrong, and one as large as one likes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

from fleet_fakes import Fleet, advert, echo, linked, offer

from capamesh.protocol.adverts import Device, ModelOffer, ModelState
from capamesh.protocol.fleet import Joined, Suspected
from capamesh.protocol.ids import PeerId
from capamesh.router.fleet.endpoint import Endpoint

HOSTILE = "<img src=x onerror=\"document.title='broken in'\">"
"""A model's name that a page must show as it is."""
GIB = 2**30
CARDS = ("NVIDIA H100 80GB", "NVIDIA L4", "NVIDIA RTX 4090", "AMD EPYC 9354")
MODELS = (
    "resnet50",
    "bert-base",
    "whisper-small",
    "digits",
    "yolo-v8",
    "magika",
    "clip-vit",
    "fraud-score",
)


def peer_of(at: int) -> PeerId:
    return PeerId(f"12D3KooW{at * 7919 % 99991:05d}MeshNodeOfTheFleetThatIsNoOne{at:06d}")


def join(fleet: Fleet, at: int, models: tuple[ModelOffer, ...]) -> Endpoint:
    card = CARDS[at % len(CARDS)]
    kind = "cpu" if "EPYC" in card else "cuda"
    device = Device(
        0, kind, card, "", 80 * GIB, (20 + at % 50) * GIB, (f"10.0.{at // 250}.{at % 250}:4100",)
    )
    told = advert(peer_of(at), models=models)
    region, town = (("eu-central", "fra"), ("us-east", "iad"), ("ap-south", "bom"))[at % 3]
    name = f"{town}-{'cpu' if kind == 'cpu' else 'gpu'}-{at:02d}"
    fleet.hear(replace(told, devices=(device,), region=region, name=name, agent_version="0.1.0"))
    endpoint = fleet.endpoints[-1]
    fleet.links.append(linked(endpoint, echo))
    endpoint.network.rtt_s = 0.0004 * (1 + at % 17)
    endpoint.answered = at * 37 % 5000
    return endpoint


def large(fleet: Fleet, nodes: int, models: int) -> None:
    """Add nodes that all host the same models. Nothing that was made is garbage, so none is looked for meanwhile."""
    hosted = tuple(offer(f"model-{at}") for at in range(models))
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        for at in range(nodes):
            join(fleet, at, hosted)
    finally:
        if is_collecting:
            gc.enable()


def troubled(fleet: Fleet, nodes: int = 40, *, is_hostile: bool = True) -> None:
    """Add nodes of which some are down, suspected, ejected or draining, fail a model, or run one on the CPU.

    `is_hostile`: one node's name and one model's name are made to break a page.
    """
    for at in range(nodes):
        hosted = tuple(_offers(at))
        if is_hostile and at == 9:
            hosted = (*hosted, offer(HOSTILE))
        endpoint = join(fleet, at, hosted)
        if at == 7:
            endpoint.link = None
        elif at == 12:
            fleet.view.apply([Suspected(endpoint.peer)])
        elif at == 21:
            endpoint.health.eject(fleet.clock(), "3 of its last 10 answers were wrong")
        elif at == 30:
            told = fleet.view.adverts[endpoint.peer]
            fleet.view.apply([Joined(replace(told, is_draining=True))])
        elif is_hostile and at == 9:
            told = fleet.view.adverts[endpoint.peer]
            fleet.view.apply([Joined(replace(told, name=HOSTILE))])


def _offers(at: int) -> Iterator[ModelOffer]:
    for number, name in enumerate(MODELS):
        if (at + number) % 3:
            yield replace(
                offer(name),
                provider="CUDAExecutionProvider",
                memory_bytes=(120 + 310 * number) * 2**20,
                row_us=400 + 350 * number,
            )
    if at == 5:
        yield replace(offer("depth-any"), provider="CPUExecutionProvider")
    if at in {3, 4}:
        yield offer("segment", state=ModelState.FAILED, reason="model.onnx is not an ONNX file")
    if at == 14:
        yield offer("llm-draft", state=ModelState.LOADING)
