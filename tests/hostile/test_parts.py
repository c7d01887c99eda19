"""Nodes that answer in parts and break every rule of it: each answer ends, its client is told, and the node is blamed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from clusters import metrics_at
from evil_nodes import IDLE, EvilNode, offer_of, present, until_usable
from hostile import MIB, AttackedNetwork, Figures, attacked
from typing_extensions import override

from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, encode_answer
from capamesh.protocol.links.link import Link
from capamesh.protocol.network import JoinToken
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

MAX_PARTS = 200
WINDOW_PARTS = 100
"""More small parts than a window holds."""
INPUTS = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
OUTPUTS = (TensorSpec("y", Datatype.FP32, (-1, 2)),)
VERSION = ModelVersion("1")
TOLD_WITHIN_S = 20.0
"""Silence of a new model is a fault after 5 s; the rest is for machines that do much else."""
MOST_MIB = 400
"""What a router may have meanwhile: its own 90 MB, and the largest part, which it holds and refuses to write as JSON."""


def y(value: float, rows: int = 1) -> Tensor:
    return Tensor.from_numpy("y", np.full((rows, 2), value, np.float32))


def send(link: Link, stream: int, *outputs: Tensor, is_final: bool = False) -> bool:
    """Send a part, or the last; False: nobody wants it."""
    meta, body = encode_answer(InferAnswer(VERSION, outputs, 0, 1, IDLE))
    return link.respond(stream, meta, body, is_final=is_final)


class PartingNode(EvilNode):
    """Has a model of its own that answers in parts, as `act` does when it is asked, and again when parts are released."""

    def __init__(self, folder: Path, token: JoinToken, act: Act) -> None:
        offer = offer_of(act.__name__, inputs=INPUTS, outputs=OUTPUTS)
        super().__init__(folder, token, replace(offer, max_parts=MAX_PARTS))
        self.act = act

    @override
    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        self.asked += 1
        self.act(link, stream)

    def parts_released(self, link: Link, stream: int) -> None:
        if self.act is for_ever:
            for_ever(link, stream)


Act = Callable[[Link, int], None]


def for_ever(link: Link, stream: int) -> None:
    """Send as many parts as there is room for, of an answer that never ends."""
    while link.has_part_room(stream) and send(link, stream, y(1)):
        pass


def without_room(link: Link, stream: int) -> None:
    """Send parts that the reader has no room for."""
    for value in range(5000):
        send(link, stream, y(value, 500))


def of_another_type(link: Link, stream: int) -> None:
    send(link, stream, y(1))
    send(link, stream, Tensor.from_numpy("y", np.ones((1, 2), np.int64)))


def of_another_shape(link: Link, stream: int) -> None:
    send(link, stream, y(1))
    send(link, stream, Tensor.from_numpy("y", np.ones((1, 3), np.float32)))


def wrong_at_once(link: Link, stream: int) -> None:
    send(link, stream, Tensor.from_numpy("z", np.ones((1, 2), np.float32)))


def of_junk(link: Link, stream: int) -> None:
    send(link, stream, y(1))
    link.respond(stream, b"\xc1 no answer", (b"junk",), is_final=False)


def huge(link: Link, stream: int) -> None:
    send(link, stream, y(1))
    send(link, stream, y(1, 60 * MIB // 8))


def silent(link: Link, stream: int) -> None:
    """Send one part, and nothing more."""
    send(link, stream, y(1))


def hang_up(link: Link, stream: int) -> None:
    send(link, stream, y(1))
    link.close("no reason")


def behind_the_last(link: Link, stream: int) -> None:
    """Send the last part, and go on as if there were more."""
    send(link, stream, y(1))
    send(link, stream, y(2), is_final=True)
    # `respond` sends nothing behind the end: so go on below it
    link._core._streams.serving[stream] = 0
    for value in range(1000):
        send(link, stream, y(value))
    send(link, stream, y(3), is_final=True)


@dataclass(frozen=True)
class Case:
    """What a node does, and what its client is told."""

    act: Act
    code: str
    said: str
    parts: int | None
    """None: as many as a window holds."""
    is_blamed: bool = True


CASES = (
    Case(for_ever, "protocol_violation", f"more than the {MAX_PARTS} parts", MAX_PARTS - 1),
    Case(without_room, "peer_error", "were not released", None),
    Case(of_another_type, "protocol_violation", "not what it advertises", 1),
    Case(of_another_shape, "protocol_violation", "not what it advertises", 1),
    Case(wrong_at_once, "protocol_violation", "not what it advertises", 0),
    Case(of_junk, "protocol_violation", "", 1),
    Case(huge, "too_large", "limit", 1, is_blamed=False),
    Case(silent, "peer_error", "has sent nothing for", 1),
    Case(hang_up, "link_lost", "the link to", 1),
)
LAST = Case(behind_the_last, "", "", 2)
"""Its answer is whole, and what comes behind it is nobody's."""


async def test_node_that_breaks_the_rules_of_parts_ends_its_own_answers_alone(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path / "network", sample_models, nodes=1) as network:
        unlike: list[str] = []
        async with network.honest(connections=2) as seen:
            for number, case in enumerate((*CASES, LAST)):
                evil = PartingNode(tmp_path / f"evil-{number}", network.token(), case.act)
                async with present(evil):
                    await until_usable(network, evil)
                    if case is not LAST:
                        unlike.append(await _unlike(network, evil, case, figures))
                        continue
                    events, _ = await _events(network, evil)
                    assert [event["y"][0] for event in events] == [1, 2]
        assert [each for each in unlike if each] == []
        assert seen.failures == []
        peak = network.peak_bytes(network.router) / MIB
        figures.at_most("router beside nodes that break the rules of parts, MiB", peak, MOST_MIB)


async def _events(network: AttackedNetwork, evil: PartingNode) -> tuple[list[Any], float]:
    """Return the events of one answer, or the one error in their place, and how long it took."""
    name = evil.offers[0].name
    began_s = time.monotonic()
    url = f"{network.http_url}/v2/models/{name}/generate_stream"
    async with (
        aiohttp.ClientSession() as session,
        asyncio.timeout(TOLD_WITHIN_S),
        session.post(url, json={"x": [1, 2]}) as reply,
    ):
        text = await reply.text()
        took_s = time.monotonic() - began_s
    if reply.status != 200:
        return [json.loads(text)], took_s
    return [json.loads(line[6:]) for line in text.split("\n\n") if line], took_s


async def _unlike(network: AttackedNetwork, evil: PartingNode, case: Case, figures: Figures) -> str:
    """Return what is not as it should be of an answer and of what is kept of its node; empty: nothing."""
    name = evil.offers[0].name
    events, took_s = await _events(network, evil)
    *parts, last = events
    figures.note(f"{name}: told after, s", round(took_s, 2))
    count = len(parts) if case.parts is None else case.parts
    is_right = (
        (last.get("code"), last.get("parts", 0)) == (case.code, count)
        and len(parts) == count
        and case.said in last["error"]
        and evil.asked >= 1
    )
    blamed = f'capamesh_attempts_failed_total{{code="{case.code}",model="{name}"}}'
    is_blamed = (await metrics_at(network.http_url)).get(blamed, 0) >= 1
    if is_right and is_blamed >= case.is_blamed:
        return ""
    return f"{name}: {last} behind {len(parts)} parts, blamed: {is_blamed}"
