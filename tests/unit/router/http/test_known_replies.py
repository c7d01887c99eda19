"""Replies that are known, in binary or in JSON, are those that are written anew."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.oip import (
    HEADER_LENGTH_NAME,
    InferRequest,
    InferResponse,
    RequestedOutput,
    encode_response,
)
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.http import known_replies, known_texts
from capamesh.router.http.known_replies import MAX_JSON_BYTES, KnownReplies
from capamesh.router.http.known_texts import MAX_AROUND_BYTES, MAX_NUMBERS, KnownTexts
from capamesh.router.http.replies import JSON, OCTETS, Reply, head_of, size_of

BINARY = InferRequest("m", "", "", (), is_binary_default=True)
TEXT = InferRequest("m", "", "", ())
DESCRIBED = b"what the node said of y and z"
MOST_BYTES = 2**20


def fp32(name: str, *numbers: float) -> Tensor:
    return Tensor(name, Datatype.FP32, (1, len(numbers)), np.array(numbers, "<f4").tobytes())


Y = fp32('y"data":[1]}', 1.5, -2)
Z = Tensor("z", Datatype.INT64, (1,), (7).to_bytes(8, "little"))


def answer_of(*outputs: Tensor, described: bytes = DESCRIBED) -> InferAnswer:
    return InferAnswer(ModelVersion("1"), outputs, 3, 4, LoadReport(), described)


def written(asked: InferRequest, answer: InferAnswer) -> Reply:
    """Return a reply as it is written for the first of its kind."""
    buffers, json_bytes = encode_response(
        InferResponse("m", answer.version, asked.id, answer.outputs), asked
    )
    headers = {"Content-Type": JSON, "X-Node": "peer"}
    if asked.is_binary_default:
        headers |= {"Content-Type": OCTETS, HEADER_LENGTH_NAME: str(json_bytes)}
    return Reply(200, headers, buffers)


def bytes_of(reply: Reply) -> bytes:
    """Return what a client reads."""
    body_bytes = sum(map(size_of, reply.buffers))
    head = head_of(reply, b"Date: Fri, 27 Nov 2026 02:14:48 GMT\r\n\r\n", body_bytes)
    return b"".join((head, *reply.buffers))


class Known:
    """What the router knows of replies in the form of a request."""

    def __init__(self, base: InferRequest) -> None:
        self.replies = KnownReplies()
        self.texts = KnownTexts()
        self.is_binary = base.is_binary_default

    def learn(self, asked: InferRequest, answer: InferAnswer) -> None:
        known = self.replies if self.is_binary else self.texts
        known.learn(asked, answer, "m", "peer", written(asked, answer))

    def reply(
        self,
        asked: InferRequest,
        answer: InferAnswer,
        model: str = "m",
        peer: str = "peer",
        most_bytes: int = MOST_BYTES,
    ) -> Reply | None:
        if self.is_binary:
            return self.replies.reply(asked, answer, model, peer)
        return self.texts.reply(asked, answer, model, peer, most_bytes)

    def __len__(self) -> int:
        return len(self.replies) + len(self.texts)


both = pytest.mark.parametrize("base", [BINARY, TEXT], ids=["binary", "json"])


@both
@pytest.mark.parametrize("names", ["", f"z {Y.name}", "z z", "in the form by name"])
def test_reply_that_is_known_is_the_one_that_is_written_anew(
    base: InferRequest, names: str
) -> None:
    outputs = tuple(map(RequestedOutput, names.split()))
    if names == "in the form by name":
        outputs = (RequestedOutput("z", is_binary=base.is_binary_default),)
    asked, known = base.replace(outputs=outputs), Known(base)
    assert known.reply(asked, answer_of(Y, Z)) is None
    known.learn(asked, answer_of(Y, Z))
    longer = Y.replace(data=memoryview(np.array([0.1, 123456.78], "<f4").tobytes()))
    for other in (longer, Y):
        answer = answer_of(other, Z.replace(data=bytearray(b"ABCDEFGH")))
        found = known.reply(asked, answer)
        assert found is not None
        assert bytes_of(found) == bytes_of(written(asked, answer))
    assert len(known) == 1


@both
def test_reply_is_known_only_for_the_same_words_version_model_peer_and_wishes(
    base: InferRequest,
) -> None:
    known, answer = Known(base), answer_of(Y, Z)
    known.learn(base, answer)
    for asked, answered, model, peer in (
        (base.replace(outputs=(RequestedOutput("z"),)), answer, "m", "peer"),
        (base.replace(is_binary_default=not base.is_binary_default), answer, "m", "peer"),
        (base.replace(id="7"), answer, "m", "peer"),
        (base.replace(classes=(1,)), answer, "m", "peer"),
        (base, answer.replace(version=ModelVersion("2")), "m", "peer"),
        (base, answer.replace(described=b"other words"), "m", "peer"),
        (base, answer.replace(described=b""), "m", "peer"),
        (base, answer, "n", "peer"),
        (base, answer, "m", "other peer"),
    ):
        assert known.reply(asked, answered, model, peer) is None
    found = known.reply(base, answer)
    assert found is not None
    if base is TEXT:
        assert known.reply(base.replace(is_non_finite_text=True), answer) is None
        assert known.reply(base, answer_of(fp32(Y.name, 1, np.nan), Z)) is None
        assert known.reply(base, answer, most_bytes=size_of(found.buffers[0]) - 1) is None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        *((base.replace(id="7"), answer_of(Y, Z)) for base in (BINARY, TEXT)),
        *((base, answer_of(Y, Z, described=b"")) for base in (BINARY, TEXT)),
        (BINARY.replace(outputs=(RequestedOutput("z", is_binary=False),)), answer_of(Y, Z)),
        (
            BINARY.replace(outputs=(RequestedOutput("z", is_binary=False), RequestedOutput("z"))),
            answer_of(Y, Z),
        ),
        (BINARY, answer_of(Y.replace(name="y" * MAX_JSON_BYTES))),
        (TEXT.replace(is_non_finite_text=True), answer_of(Y, Z)),
        (TEXT.replace(outputs=(RequestedOutput("z", is_binary=True),)), answer_of(Y, Z)),
        (TEXT, answer_of(Tensor("t", Datatype.BYTES, (1,), b"\1\0\0\0a"))),
        (TEXT, answer_of(Tensor("t", Datatype.BOOL, (1,), b"\1"))),
        (TEXT, answer_of(fp32("y", *range(MAX_NUMBERS + 1)))),
        (TEXT, answer_of(fp32("y" * MAX_AROUND_BYTES, 1))),
    ],
)
def test_reply_that_the_next_may_differ_from_is_not_remembered(
    asked: InferRequest, answer: InferAnswer
) -> None:
    known = Known(asked)
    known.learn(asked, answer)
    assert len(known) == 0


@both
def test_known_replies_are_so_many(base: InferRequest) -> None:
    known = Known(base)
    most = known_replies.MAX_KNOWN if base is BINARY else known_texts.MAX_KNOWN
    for number in range(most + 1):
        known.learn(base, answer_of(Z, described=b"%d" % number))
    assert len(known) == most
    assert known.reply(base, answer_of(Z, described=b"0")) is None
    assert known.reply(base, answer_of(Z, described=b"1")) is not None
