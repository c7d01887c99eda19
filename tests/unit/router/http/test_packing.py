"""Long answers in JSON are packed for those who take them so."""

from __future__ import annotations

import asyncio
import gzip
import json

import numpy as np
import pytest
from fleet_fakes import answer_of, answering, fp32
from raw_http import ask, request
from router_http import INFER, Http

from capamesh.router.http.packing import AT_ONCE, MOST_WAITING, Packer, takes_gzip

LONG = fp32("y", *np.random.default_rng(0).random((10_000, 2)))
BODY = json.dumps({"inputs": []}).encode()
GZIP = b"Accept-Encoding: gzip, deflate"


async def test_a_long_answer_comes_packed_to_who_takes_it_so(http: Http) -> None:
    http.node("A", answering(answer_of("1", LONG)))
    plain = await ask(http.client.port, request(INFER, BODY))
    packed = await ask(http.client.port, request(INFER, BODY, GZIP))
    assert (plain.get("content-encoding"), packed.get("content-encoding")) == (None, "gzip")
    assert packed.get("vary") == "Accept-Encoding"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) * 0.6


async def test_short_answers_and_raw_bytes_come_as_they_are(http: Http) -> None:
    http.node("A", answering(answer_of("1", fp32("y", [1.0, 2.0]))))
    assert (await ask(http.client.port, request(INFER, BODY, GZIP))).get("content-encoding") is None
    http.node("A", answering(answer_of("1", LONG)))
    body = json.dumps({"inputs": [], "parameters": {"binary_data_output": True}}).encode()
    answer = await ask(http.client.port, request(INFER, body, GZIP))
    assert answer.get("content-encoding") is None


async def test_when_there_is_much_to_pack_the_rest_goes_as_it_is() -> None:
    packer = Packer()
    done: list[bytes | None] = []
    begun = [packer.begin([b"x" * 10**6], done.append) for _ in range(20)]
    assert begun == [True] * (AT_ONCE + MOST_WAITING) + [False] * (14)
    while len(done) < AT_ONCE + MOST_WAITING:
        await asyncio.sleep(0.001)
    assert {gzip.decompress(each or b"") for each in done} == {b"x" * 10**6}
    assert packer.begin([b"x"], done.append)
    packer.close()
    assert not packer.begin([b"x"], done.append)
    assert packer._under_way == 1  # what it had begun, and no more


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("br,x-gzip", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("gzipped", False),
        ("*", False),
    ],
)
def test_who_takes_gzip_says_so(accepted: str, takes: bool) -> None:
    assert takes_gzip(accepted) is takes
