"""Long answers in JSON come packed to those who take them so."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
from fleet_fakes import answer_of, answering, fp32
from raw_http import ask, request
from router_http import INFER, Http

LONG = fp32("y", *np.random.default_rng(0).random((10_000, 2)))
BODY = json.dumps({"inputs": []}).encode()
GZIP = b"Accept-Encoding: gzip, deflate"


async def test_long_answer_comes_packed_to_who_takes_it_so(http: Http) -> None:
    http.node("A", answering(answer_of("1", LONG)))
    plain = await ask(http.client.port, request(INFER, BODY))
    assert plain.get("content-encoding") is None
    for coding, takes, unpack in (
        ("gzip", GZIP, gzip.decompress),
        ("deflate", b"Accept-Encoding: deflate", zlib.decompress),
    ):
        packed = await ask(http.client.port, request(INFER, BODY, takes))
        assert (packed.get("content-encoding"), packed.get("vary")) == (coding, "Accept-Encoding")
        assert unpack(packed.body) == plain.body
        assert len(packed.body) < len(plain.body) * 0.6


async def test_short_answers_and_raw_bytes_come_as_they_are(http: Http) -> None:
    http.node("A", answering(answer_of("1", fp32("y", [1.0, 2.0]))))
    assert (await ask(http.client.port, request(INFER, BODY, GZIP))).get("content-encoding") is None
    http.node("A", answering(answer_of("1", LONG)))
    body = json.dumps({"inputs": [], "parameters": {"binary_data_output": True}}).encode()
    answer = await ask(http.client.port, request(INFER, body, GZIP))
    assert answer.get("content-encoding") is None


async def test_raw_bytes_come_packed_to_who_packs_its_requests(http: Http) -> None:
    http.node("A", answering(answer_of("1", LONG)))
    body = json.dumps({"inputs": [], "parameters": {"binary_data_output": True}}).encode()
    plain = await ask(http.client.port, request(INFER, body))
    for _ in range(3):  # the form of the answer is known then
        data = request(INFER, gzip.compress(body), GZIP, b"Content-Encoding: gzip")
        packed = await ask(http.client.port, data)
        assert packed.get("content-encoding") == "gzip"
        length = "inference-header-content-length"
        assert packed.get(length) == plain.get(length)
        assert gzip.decompress(packed.body) == plain.body
    data = request(INFER, gzip.compress(body), b"Content-Encoding: gzip")
    assert (await ask(http.client.port, data)).body == plain.body
