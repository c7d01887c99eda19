"""Replies in JSON that are known are those that are written anew."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.oip import InferRequest, InferResponse, RequestedOutput, encode_response
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.http.known_texts import MAX_AROUND_BYTES, MAX_KNOWN, MAX_NUMBERS, KnownTexts
from capamesh.router.http.replies import JSON, Reply, head_of, size_of

ASKED = InferRequest("m", "", "", ())
MOST_BYTES = 2**20
DESCRIBED = b"what the node said of y and z"


def fp32(name: str, *numbers: float) -> Tensor:
    data = np.array(numbers, "<f4").tobytes()
    return Tensor(name, Datatype.FP32, (1, len(numbers)), data)


Y = fp32('y"data":[1]}', 1.5, -2)
Z = Tensor("z", Datatype.INT64, (1,), (7).to_bytes(8, "little"))


def answer_of(*outputs: Tensor, described: bytes = DESCRIBED) -> InferAnswer:
    return InferAnswer(ModelVersion("1"), outputs, 3, 4, LoadReport(), described)


def written(asked: InferRequest, answer: InferAnswer, peer: str = "peer") -> Reply:
    """Return a reply as it is written for the first of its kind."""
    buffers, _ = encode_response(
        InferResponse("m", answer.version, asked.id, answer.outputs), asked
    )
    return Reply(200, {"Content-Type": JSON, "X-Node": peer}, buffers)


def bytes_of(reply: Reply) -> bytes:
    """Return what a client reads."""
    body_bytes = sum(map(size_of, reply.buffers))
    head = head_of(reply, b"Date: Fri, 27 Nov 2026 02:14:48 GMT\r\n\r\n", body_bytes)
    return b"".join((head, *reply.buffers))


def learnt(asked: InferRequest, answer: InferAnswer) -> KnownTexts:
    known = KnownTexts()
    known.learn(asked, answer, "m", "peer", written(asked, answer))
    return known


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        (RequestedOutput("z"), RequestedOutput(Y.name)),
        (RequestedOutput("z", is_binary=False),),
        (RequestedOutput("z"), RequestedOutput("z")),
    ],
)
def test_reply_that_is_known_is_the_one_that_is_written_anew(
    outputs: tuple[RequestedOutput, ...],
) -> None:
    asked = ASKED.replace(outputs=outputs)
    assert KnownTexts().reply(asked, answer_of(Y, Z), "m", "peer", MOST_BYTES) is None
    known = learnt(asked, answer_of(Y, Z))
    longer = Y.replace(data=memoryview(np.array([0.1, 123456.78], "<f4").tobytes()))
    for other in (longer, Y):
        answer = answer_of(other, Z.replace(data=bytearray(b"ABCDEFGH")))
        found = known.reply(asked, answer, "m", "peer", MOST_BYTES)
        assert found is not None
        assert bytes_of(found) == bytes_of(written(asked, answer))
    assert repr(known) == "KnownTexts(1)"


def test_reply_is_known_only_for_the_same_words_version_model_peer_and_wishes() -> None:
    answer = answer_of(Y, Z)
    known = learnt(ASKED, answer)
    for asked, answered, model, peer in (
        (ASKED.replace(outputs=(RequestedOutput("z"),)), answer, "m", "peer"),
        (ASKED.replace(is_binary_default=True), answer, "m", "peer"),
        (ASKED.replace(is_non_finite_text=True), answer, "m", "peer"),
        (ASKED.replace(id="7"), answer, "m", "peer"),
        (ASKED.replace(classes=(1,)), answer, "m", "peer"),
        (ASKED, answer.replace(version=ModelVersion("2")), "m", "peer"),
        (ASKED, answer.replace(described=b"other words"), "m", "peer"),
        (ASKED, answer.replace(described=b""), "m", "peer"),
        (ASKED, answer, "n", "peer"),
        (ASKED, answer, "m", "other peer"),
        (ASKED, answer_of(fp32(Y.name, 1, np.nan), Z), "m", "peer"),
    ):
        assert known.reply(asked, answered, model, peer, MOST_BYTES) is None
    found = known.reply(ASKED, answer, "m", "peer", MOST_BYTES)
    assert found is not None
    assert known.reply(ASKED, answer, "m", "peer", size_of(found.buffers[0]) - 1) is None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (ASKED.replace(id="7"), answer_of(Y, Z)),
        (ASKED.replace(is_non_finite_text=True), answer_of(Y, Z)),
        (ASKED.replace(is_binary_default=True), answer_of(Y, Z)),
        (ASKED, answer_of(Y, Z, described=b"")),
        (ASKED, answer_of(Tensor("t", Datatype.BYTES, (1,), b"\1\0\0\0a"))),
        (ASKED, answer_of(Tensor("t", Datatype.BOOL, (1,), b"\1"))),
        (ASKED, answer_of(fp32("y", *range(MAX_NUMBERS + 1)))),
        (ASKED, answer_of(fp32("y" * MAX_AROUND_BYTES, 1))),
        (ASKED.replace(outputs=(RequestedOutput("z", is_binary=True),)), answer_of(Y, Z)),
    ],
)
def test_reply_that_the_next_may_differ_from_is_not_remembered(
    asked: InferRequest, answer: InferAnswer
) -> None:
    assert len(learnt(asked, answer)) == 0


def test_known_replies_are_so_many() -> None:
    known = KnownTexts()
    for number in range(MAX_KNOWN + 1):
        answer = answer_of(Z, described=b"%d" % number)
        known.learn(ASKED, answer, "m", "peer", written(ASKED, answer))
    assert len(known) == MAX_KNOWN
    assert known.reply(ASKED, answer_of(Z, described=b"0"), "m", "peer", MOST_BYTES) is None
    assert known.reply(ASKED, answer_of(Z, described=b"1"), "m", "peer", MOST_BYTES) is not None
