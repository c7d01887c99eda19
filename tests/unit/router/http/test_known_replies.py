from __future__ import annotations

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
from capamesh.router.http.known_replies import MAX_JSON_BYTES, MAX_KNOWN, KnownReplies
from capamesh.router.http.replies import OCTETS, Reply, head_of, size_of

ALL = InferRequest("m", "", "", (), is_binary_default=True)
Y = Tensor("y", Datatype.FP32, (1, 2), b"12345678")
Z = Tensor("z", Datatype.INT64, (1,), b"87654321")
DESCRIBED = b"what the node said of y and z"


def answer_of(*outputs: Tensor, described: bytes = DESCRIBED) -> InferAnswer:
    return InferAnswer(ModelVersion("1"), outputs, 3, 4, LoadReport(), described)


def written(asked: InferRequest, answer: InferAnswer, peer: str = "peer") -> Reply:
    """Return a reply as it is written for the first of its kind."""
    buffers, json_bytes = encode_response(
        InferResponse("m", answer.version, asked.id, answer.outputs), asked
    )
    headers = {"Content-Type": OCTETS, "X-Node": peer, HEADER_LENGTH_NAME: str(json_bytes)}
    return Reply(200, headers, buffers)


def bytes_of(reply: Reply) -> bytes:
    """Return what a client reads."""
    body_bytes = sum(map(size_of, reply.buffers))
    head = head_of(reply, b"Date: Fri, 27 Nov 2026 02:14:48 GMT\r\n\r\n", body_bytes)
    return b"".join((head, *reply.buffers))


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        (RequestedOutput("z"), RequestedOutput("y")),
        (RequestedOutput("z", is_binary=True),),
        (RequestedOutput("y"), RequestedOutput("y")),
    ],
)
def test_reply_that_is_known_is_the_one_that_is_written_anew(
    outputs: tuple[RequestedOutput, ...],
) -> None:
    asked = ALL.replace(outputs=outputs)
    known = KnownReplies()
    first = answer_of(Y, Z)
    assert known.reply(asked, first, "m", "peer") is None
    known.learn(asked, first, "m", "peer", written(asked, first))
    other = answer_of(Y.replace(data=b"abcdefgh"), Z.replace(data=bytearray(b"ABCDEFGH")))
    found = known.reply(asked, other, "m", "peer")
    assert found is not None
    assert bytes_of(found) == bytes_of(written(asked, other))
    assert repr(known) == "KnownReplies(1)"


def test_reply_is_known_only_for_the_same_words_version_model_peer_and_wishes() -> None:
    known, answer = KnownReplies(), answer_of(Y, Z)
    known.learn(ALL, answer, "m", "peer", written(ALL, answer))
    wanted = ALL.replace(outputs=(RequestedOutput("y"),))
    other = answer.replace(version=ModelVersion("2"))
    for asked, answered, model, peer in (
        (wanted, answer, "m", "peer"),
        (ALL.replace(is_binary_default=False), answer, "m", "peer"),
        (ALL.replace(id="7"), answer, "m", "peer"),
        (ALL.replace(classes=(1,)), answer, "m", "peer"),
        (ALL, other, "m", "peer"),
        (ALL, answer.replace(described=b"other words"), "m", "peer"),
        (ALL, answer.replace(described=b""), "m", "peer"),
        (ALL, answer, "n", "peer"),
        (ALL, answer, "m", "other peer"),
    ):
        assert known.reply(asked, answered, model, peer) is None
    assert known.reply(ALL, answer, "m", "peer") is not None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (ALL.replace(id="7"), answer_of(Y, Z)),
        (ALL, answer_of(Y, Z, described=b"")),
        (ALL.replace(is_binary_default=False), answer_of(Y, Z)),
        (ALL.replace(outputs=(RequestedOutput("y", is_binary=False),)), answer_of(Y, Z)),
        (
            ALL.replace(outputs=(RequestedOutput("y", is_binary=False), RequestedOutput("z"))),
            answer_of(Y, Z),
        ),
        (ALL, answer_of(Y.replace(name="y" * MAX_JSON_BYTES))),
    ],
)
def test_reply_that_the_next_may_differ_from_is_not_remembered(
    asked: InferRequest, answer: InferAnswer
) -> None:
    known = KnownReplies()
    known.learn(asked, answer, "m", "peer", written(asked, answer))
    assert len(known) == 0


def test_known_replies_are_so_many() -> None:
    known = KnownReplies()
    for number in range(MAX_KNOWN + 1):
        answer = answer_of(Y, described=b"%d" % number)
        known.learn(ALL, answer, "m", "peer", written(ALL, answer))
    assert len(known) == MAX_KNOWN
    assert known.reply(ALL, answer_of(Y, described=b"0"), "m", "peer") is None
    assert known.reply(ALL, answer_of(Y, described=b"1"), "m", "peer") is not None
