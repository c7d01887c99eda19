"""The classes of an output, as a request asks for them and as an answer gives them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from capamesh.client import ClassScore
from capamesh.client.answers import Answer, Outputs
from capamesh.client.asks import ask_infer
from capamesh.protocol.errors import InvalidRequest, ProtocolViolation
from capamesh.protocol.oip import decode_request

ONE = {"X": np.ones(1, np.float32)}


def asked(**options: Any) -> dict[str, int]:
    """Return the outputs that are asked for, with how many classes of each."""
    ask = ask_infer("m", ONE, is_binary=False, **options)
    request = decode_request("m", "", b"".join(ask.buffers), None)
    names = [output.name for output in request.outputs]
    return dict(zip(names, request.classes or (0,) * len(names), strict=True))


def answered(*texts: Any, shape: list[int], datatype: str = "BYTES", name: str = "y") -> Outputs:
    body = {
        "model_name": "m",
        "outputs": [{"name": name, "datatype": datatype, "shape": shape, "data": list(texts)}],
    }
    ask = ask_infer("m", ONE, classes={"y": 3})
    return ask.read(Answer(200, json.dumps(body).encode()), "http://router")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (3, "classes is 3; give outputs with how many, such as {'probabilities': 3}"),
        ({"y": 0}, "classes of output 'y' is 0; a whole number from 1 to 8192 is expected"),
        ({"y": 8193}, "is 8193; "),
        ({"y": True}, "is True; "),
        ({"y": "3"}, "is '3'; "),
    ],
)
def test_classes_that_cannot_be_asked_for_are_refused(classes: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ask_infer("m", ONE, classes=classes)


def test_classes_of_each_row_come_as_values() -> None:
    outputs = answered("2.5:1:dog", "-1:0", "nan:7:a:b", "inf:3:", shape=[2, 2])
    first, second = outputs.classes["y"]
    assert first == [ClassScore(2.5, 1, "dog"), ClassScore(-1.0, 0, "")]
    assert math.isnan(second[0].score)
    assert (second[0].index, second[0].label) == (7, "a:b")
    assert second[1] == ClassScore(math.inf, 3, "")
    assert outputs["y"].tolist() == [[b"2.5:1:dog", b"-1:0"], [b"nan:7:a:b", b"inf:3:"]]


def test_classes_without_rows_are_one_row() -> None:
    assert answered("7:1:dog", shape=[1]).classes == {"y": [[ClassScore(7.0, 1, "dog")]]}
    assert answered(shape=[0, 3]).classes == {"y": []}
    assert answered(shape=[2, 0]).classes == {"y": [[], []]}
    assert answered("1", shape=[1], name="other").classes == {}
    (row,) = answered("1:0:\x1b[2Jcat\u202e", shape=[1]).classes["y"]
    assert row[0].label == "\ufffd[2Jcat\ufffd"


@pytest.mark.parametrize(
    "text", ["", "1", "x:1", "1:-1", "1:1.5", "1:\u0661", "1:" + "9" * 19, ":0"]
)
def test_text_that_is_no_class_breaks_the_protocol(text: str) -> None:
    with pytest.raises(
        ProtocolViolation, match=r"output 'y' is b'.*', and texts 'score:index:label' were"
    ):
        answered(text, shape=[1])


def test_output_that_was_not_classified_breaks_the_protocol() -> None:
    with pytest.raises(ProtocolViolation, match=r"output 'y' is FP32\[1, 2\], and texts"):
        answered(1.0, 2.0, shape=[1, 2], datatype="FP32")
    with pytest.raises(ProtocolViolation, match=r"output 'y' is BYTES\[1, 1, 1\], and texts"):
        answered("1:0", shape=[1, 1, 1])


def test_outputs_of_classes_are_asked_for_with_how_many() -> None:
    assert asked(outputs=["n"]) == {"n": 0}
    assert asked(outputs=["n", "y"], classes={"y": 3, "z": 1}) == {"n": 0, "y": 3, "z": 1}
