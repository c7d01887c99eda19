"""One node with one token against three honest ones: it owns no model's traffic, and no request is lost on it."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from pathlib import Path

from clusters import Cluster, models_at, nodes_at
from evil_nodes import (
    LIES,
    WRONG_LABEL,
    EvilNode,
    digest_of,
    made_up,
    offer_of,
    present,
    right_request,
    until_usable,
    wrong,
)
from hostile import Figures, attacked
from http_load import Load, Request, Shot, failures
from patience import until

from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.tensors import Datatype, TensorSpec
from capamesh.router.ownership.version import SETTLE_S

HIGHEST = "9" * 18
OTHER = "sha256-chunks:" + "e" * 64
REQUESTS = 400
SLOW_S = 0.05
"""Fifty times what an honest node takes. One that is believed to be idle and quick all the same has half of all requests
(measured)."""


async def ask(cluster: Cluster, right: Request, *, callers: int = 4) -> list[Shot]:
    """Ask digits `REQUESTS` times, a few at a time, nothing twice; all must be answered, rightly or not."""
    shots = await Load(cluster.http_url).run([right] * REQUESTS, concurrency=callers)
    assert all(shot.is_answered for shot in shots), failures(shots)
    return shots


async def is_known(cluster: Cluster, evil: EvilNode) -> None:
    """Wait until the router knows what the evil node advertises now."""
    evil.advertise()

    async def is_so() -> bool:
        models = (await nodes_at(cluster.http_url)).get(evil.peer, {}).get("models", ())
        known = {(model["version"], model["digest"]) for model in models}
        return known == {(offer.version, offer.digest) for offer in evil.offers}

    await until(is_so)


async def test_node_with_one_token_owns_no_model_s_traffic(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("")
    options = ("--rules", str(rules))
    async with attacked(tmp_path / "network", sample_models, router_options=options) as cluster:
        await asyncio.sleep(SETTLE_S)
        digest = await digest_of(cluster)
        right, _ = await right_request(cluster.http_url)

        async def is_not_asked(evil: EvilNode, *, is_believed: bool = False) -> None:
            evil.asked = 0
            assert failures(await ask(cluster, right)) == []
            assert evil.asked == 0 or is_believed

        evil = EvilNode(tmp_path / "evil", cluster.token(), offer_of("digits", HIGHEST, OTHER))
        async with present(evil):
            await until_usable(cluster, evil)
            for name, answers in (
                ("wrong answers", wrong),
                ("your request is wrong", LIES["invalid"]),
                ("never answers", LIES["never answers"]),
            ):
                evil.asked, evil.answers = 0, answers
                shots = await ask(cluster, right)
                what = f"higher version, {name}"
                figures.at_most(f"{what}: asked, of {REQUESTS}", evil.asked, REQUESTS // 100)
                believed = sum(not shot.is_right for shot in shots)
                figures.at_most(f"{what}: believed", believed, REQUESTS // 100)

            evil.offers, evil.answers = (offer_of("digits", "1", OTHER),), wrong
            await is_known(cluster, evil)
            await is_not_asked(evil)
            (shown,) = [
                one
                for one in await models_at(cluster.http_url)
                if (one["name"], one["version"]) == ("digits", "1")
            ]
            assert (shown["digest"], shown["nodes"]) == (digest, 3)
            assert [one["digest"] for one in shown["others"]] == [OTHER]
            assert "model_digest_ignored" in cluster.router.log_file.read_text()

            evil.offers = (offer_of("digits", "1", digest),)
            await is_known(cluster, evil)
            asked = 0
            for changed in (
                lambda tensor: tensor.replace(name="other"),
                lambda tensor: made_up(
                    TensorSpec(tensor.name, Datatype.FP64, (-1,)), 1, WRONG_LABEL
                ),
                lambda tensor: made_up(
                    TensorSpec(tensor.name, tensor.datatype, (-1, 3)), 1, WRONG_LABEL
                ),
                None,
            ):
                evil.answers = lambda call, changed=changed: [
                    changed(each) for each in wrong(call) if changed is not None
                ]
                await is_not_asked(evil, is_believed=True)
                asked += evil.asked
            figures.at_least("answers in another form: asked", asked, 1)

            pinned = f'[digits.digests]\n"1" = "{digest}"\n'
            await asyncio.to_thread(rules.write_text, pinned)
            cluster.router.signal(signal.SIGHUP)
            await until(lambda: "rules_reloaded" in cluster.router.log_file.read_text())
            evil.offers, evil.answers = (offer_of("digits", HIGHEST, OTHER),), wrong
            await is_known(cluster, evil)
            await is_not_asked(evil)

        offer = offer_of("digits", "1", digest)
        small = EvilNode(
            tmp_path / "small", cluster.token(), offer, limits=LinkLimits(message_bytes=1)
        )
        small.answers = wrong

        async def is_refused() -> bool:
            links = (await nodes_at(cluster.http_url)).get(small.peer, {}).get("links", ())
            return any("at most 1 bytes" in link["last_error"] for link in links)

        async with present(small):
            await is_known(cluster, small)
            await until(is_refused)
            await is_not_asked(small)
        pins = json.loads((cluster.router.data_folder / "model-pins.json").read_text())["pins"]
        kept = [(pin["version"], pin["digest"], pin["is_trusted"]) for pin in pins]
        assert ("1", digest, True) in kept


async def test_node_that_always_claims_to_be_idle_and_quick_gets_less_than_its_share(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    # nothing is known yet of any node: who was seen to be slow, or to answer wrong, is not asked anyway
    async with attacked(tmp_path / "network", sample_models, nodes=3) as cluster:
        offer = replace(offer_of("digits", "1", await digest_of(cluster)), row_us=1)
        flatterer = EvilNode(tmp_path / "evil", cluster.token(), offer)
        flatterer.answers, flatterer.delay_s = wrong, SLOW_S
        async with present(flatterer):
            await until_usable(cluster, flatterer)
            await is_known(cluster, flatterer)
            right, _ = await right_request(cluster.http_url)
            await ask(cluster, right, callers=2)
    figures.at_least("flattering and slow: asked", flatterer.asked, 1)
    figures.at_most(f"flattering and slow: asked, of {REQUESTS}", flatterer.asked, REQUESTS // 5)
