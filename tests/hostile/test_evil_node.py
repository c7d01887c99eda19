"""One node with one token against three honest ones: it owns no model's traffic, and no request is lost on it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from evil_node import EvilNode, made_up, present
from hostile import AttackedNetwork, Figures, attacked

from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.ownership.version import SETTLE_S

HIGHEST = ModelVersion("9" * 18)
INPUTS = (TensorSpec("X", Datatype.FP32, (-1, 64)),)
OUTPUTS = (
    TensorSpec("label", Datatype.INT64, (-1,)),
    TensorSpec("probabilities", Datatype.FP32, (-1, 10)),
)
OTHER = "sha256-chunks:" + "e" * 64
WRONG_LABEL = 42
REQUESTS = 400
SLOW_S = 0.05
"""Fifty times what an honest node takes. One that is believed to be idle and quick all the same has half of all requests
(measured)."""


def offer(version: str, digest: str) -> ModelOffer:
    return ModelOffer(
        ModelName("digits"), ModelVersion(version), digest, ModelState.READY, "", INPUTS, OUTPUTS
    )


def wrong(call: InferCall) -> list[Tensor]:
    """Answer 42, in the form that digits has."""
    specs = [spec for spec in OUTPUTS if not call.outputs or spec.name in call.outputs]
    return [made_up(spec, call.inputs[0].shape[0], WRONG_LABEL) for spec in specs]


def to_blame(_: InferCall) -> InvalidRequest:
    return InvalidRequest("your request is wrong")


@dataclass(slots=True)
class Seen:
    answered: int = 0
    failed: Counter[str] = None  # type: ignore[assignment]
    wrong: int = 0
    by_peer: Counter[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.failed, self.by_peer = Counter(), Counter()


async def ask(
    url: str, count: int = REQUESTS, *, outputs: tuple[str, ...] = (), callers: int = 4
) -> Seen:
    """Ask digits so often, a few at a time, nothing twice."""
    seen = Seen()
    body: dict[str, Any] = {
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]
    }
    if outputs:
        body["outputs"] = [{"name": name} for name in outputs]
    left = [count]

    async def caller(session: aiohttp.ClientSession) -> None:
        while left[0] > 0:
            left[0] -= 1
            async with session.post(f"{url}/v2/models/digits/infer", json=body) as reply:
                given = await reply.json()
                if reply.status != 200:
                    seen.failed[f"{reply.status} {given}"[:200]] += 1
                    continue
                seen.answered += 1
                seen.by_peer[reply.headers["X-Capamesh-Node"]] += 1
                values = [output["data"][0] for output in given["outputs"]]
                seen.wrong += WRONG_LABEL in values

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller(session))
    return seen


async def get(url: str, page: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url + page) as reply:
        return await reply.json()


async def until(is_so: Callable[[], bool], patience_s: float = 60.0) -> None:
    end_s = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end_s, "it has not happened"
        await asyncio.sleep(0.05)


async def is_known(url: str, evil: EvilNode) -> None:
    """Wait until the router knows what the evil node advertises now."""
    peer, wanted = evil.membership.identity.peer_id, {(o.version, o.digest) for o in evil.offers}
    evil.advertise()
    end_s = time.monotonic() + 60
    while True:
        for node in (await get(url, "/v1/nodes"))["nodes"]:
            if node["peer_id"] == peer and wanted == {
                (model["version"], model["digest"]) for model in node["models"]
            }:
                return
        assert time.monotonic() < end_s, "the router does not hear the evil node"
        await asyncio.sleep(0.1)


@asynccontextmanager
async def network(
    folder: Path, models: Path, *options: str
) -> AsyncIterator[tuple[AttackedNetwork, str]]:
    """Run three honest nodes whose files are settled; yield it and the digest of digits."""
    async with attacked(folder, models, nodes=3, router_options=options) as running:
        began_s = time.monotonic()
        digest = await digest_of(running)
        while time.monotonic() - began_s < SETTLE_S:
            await asyncio.sleep(0.1)
        yield running, digest


async def digest_of(running: AttackedNetwork) -> str:
    """Return the digest of digits."""
    owned = (await get(running.url, "/v1/models"))["models"]
    (digest,) = [one["digest"] for one in owned if one["name"] == "digits"]
    return digest


def token_of(running: AttackedNetwork) -> str:
    """Return a token for one more node."""
    mesh = running.router.status()["mesh_addresses"]
    return running.cluster._token(running.cluster._owner(), Role.NODE, mesh).encode()


async def test_node_with_one_token_owns_no_model_s_traffic(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("")
    async with network(tmp_path / "network", sample_models, "--rules", str(rules)) as there:
        running, digest = there
        token = token_of(running)
        evil = EvilNode(tmp_path / "evil", token, offer(HIGHEST, OTHER))
        async with present(evil):
            await until(lambda: evil.links > 0)
            await _brings_a_higher_version(running, evil, figures)
            await _brings_another_file(running, evil, digest)
            await _answers_in_another_form(running, evil, digest, figures)
            await _is_left_nothing_by_the_rules(running, evil, rules, digest)
        small = EvilNode(tmp_path / "small", token, offer("1", digest), message_bytes=1)
        async with present(small):
            await _takes_messages_of_a_byte(running, small)
        pins = json.loads((running.cluster.folder / "router" / "model-pins.json").read_text())[
            "pins"
        ]
        kept = [(pin["version"], pin["digest"], pin["is_trusted"]) for pin in pins]
        assert ("1", digest, True) in kept


async def test_node_that_always_claims_to_be_idle_and_quick_gets_less_than_its_share(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    # nothing is known yet of any node: who was seen to be slow, or to answer wrong, is not asked anyway
    async with attacked(tmp_path / "network", sample_models, nodes=3) as running:
        digest = await digest_of(running)
        flatterer = EvilNode(
            tmp_path / "evil", token_of(running), replace(offer("1", digest), row_us=1)
        )
        flatterer.answers, flatterer.delay_s = wrong, SLOW_S
        async with present(flatterer):
            await until(lambda: flatterer.links > 0)
            await is_known(running.url, flatterer)
            seen = await ask(running.url, callers=2)
    assert seen.failed == {}
    figures.at_least("flattering and slow: asked", flatterer.asked, 1)
    figures.at_most(f"flattering and slow: asked, of {REQUESTS}", flatterer.asked, REQUESTS // 5)


async def _brings_a_higher_version(
    running: AttackedNetwork, evil: EvilNode, figures: Figures
) -> None:
    for name, answers in (
        ("wrong answers", wrong),
        ("your request is wrong", to_blame),
        ("never answers", lambda _: None),
    ):
        evil.asked, evil.answers = 0, answers
        seen = await ask(running.url)
        assert (seen.failed, seen.answered) == ({}, REQUESTS)
        figures.at_most(
            f"higher version, {name}: asked, of {REQUESTS}", evil.asked, REQUESTS // 100
        )
        figures.at_most(f"higher version, {name}: believed", seen.wrong, REQUESTS // 100)


async def _brings_another_file(running: AttackedNetwork, evil: EvilNode, digest: str) -> None:
    evil.offers, evil.asked, evil.answers = (offer("1", OTHER),), 0, wrong
    await is_known(running.url, evil)
    seen = await ask(running.url)
    assert (seen.failed, seen.wrong, evil.asked) == ({}, 0, 0)
    (shown,) = [
        one
        for one in (await get(running.url, "/v1/models"))["models"]
        if (one["name"], one["version"]) == ("digits", "1")
    ]
    assert (shown["digest"], shown["nodes"]) == (digest, 3)
    assert [one["digest"] for one in shown["others"]] == [OTHER]
    assert _is_logged(running, "model_digest_ignored")


async def _answers_in_another_form(
    running: AttackedNetwork, evil: EvilNode, digest: str, figures: Figures
) -> None:
    evil.offers = (offer("1", digest),)
    await is_known(running.url, evil)
    evil.asked = 0
    for changed in (
        lambda tensor: tensor.replace(name="other"),
        lambda tensor: made_up(TensorSpec(tensor.name, Datatype.FP64, (-1,)), 1, WRONG_LABEL),
        lambda tensor: made_up(TensorSpec(tensor.name, tensor.datatype, (-1, 3)), 1, WRONG_LABEL),
    ):
        evil.answers = lambda call, changed=changed: [changed(each) for each in wrong(call)]
        seen = await ask(running.url)
        assert (seen.failed, seen.wrong) == ({}, 0)
        assert evil.membership.identity.peer_id not in seen.by_peer
    evil.answers = lambda _: []
    seen = await ask(running.url, outputs=("label",))
    assert (seen.failed, seen.wrong) == ({}, 0)
    figures.at_least("answers in another form: asked", evil.asked, 1)


async def _is_left_nothing_by_the_rules(
    running: AttackedNetwork, evil: EvilNode, rules: Path, digest: str
) -> None:
    pinned = f'[digits.digests]\n"1" = "{digest}"\n'
    await asyncio.to_thread(rules.write_text, pinned)
    running.router.signal(signal.SIGHUP)
    await until(lambda: _is_logged(running, "rules_reloaded"))
    evil.offers, evil.answers, evil.asked = (offer(HIGHEST, OTHER),), wrong, 0
    await is_known(running.url, evil)
    seen = await ask(running.url)
    assert (seen.failed, seen.wrong, evil.asked) == ({}, 0, 0)


async def _takes_messages_of_a_byte(running: AttackedNetwork, small: EvilNode) -> None:
    small.answers = wrong
    await is_known(running.url, small)
    async with asyncio.timeout(120):
        while "at most 1 bytes" not in await _errors_of(running, small):
            await asyncio.sleep(0.1)
    seen = await ask(running.url)
    assert (seen.failed, seen.wrong, small.asked) == ({}, 0, 0)


async def _errors_of(running: AttackedNetwork, evil: EvilNode) -> str:
    """Return why the router has no link to the node."""
    peer = evil.membership.identity.peer_id
    nodes = (await get(running.url, "/v1/nodes"))["nodes"]
    return " ".join(
        link["last_error"] for node in nodes if node["peer_id"] == peer for link in node["links"]
    )


def _is_logged(running: AttackedNetwork, text: str) -> bool:
    """Return whether the router's log has the text."""
    return text in running.router.log_file.read_text()
