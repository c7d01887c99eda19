from __future__ import annotations

import json
from typing import Any

import pytest

from capamesh.node.generation.request import NO_LOGPROBS
from capamesh.node.runtime.decoders.genai_config import SearchDefaults
from capamesh.node.runtime.text_generation.asked import MAX_ASKED_BYTES, read_asked, sampling_of
from capamesh.protocol.errors import CapameshError, InvalidRequest, TooLarge

DRAWN = SearchDefaults(True, 0.7, 40, 0.9, 1.1, 512)
GREEDY = SearchDefaults(False, 0.7, 40, 0.9, 1.0, 512)


def raw(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", **fields}).encode()


def test_parameters_that_are_left_out_are_the_models_own() -> None:
    of_drawn = sampling_of(read_asked(raw()), DRAWN, 5)
    assert (of_drawn.temperature, of_drawn.top_k, of_drawn.top_p) == (0.7, 40, 0.9)
    assert (of_drawn.repetition_penalty, of_drawn.seed, of_drawn.logprobs) == (1.1, 5, NO_LOGPROBS)
    of_greedy = sampling_of(read_asked(raw()), GREEDY, 5)
    assert of_greedy.is_greedy
    asked = read_asked(raw(temperature=1, top_k=0, logit_bias={"7": -3}, logprobs=2))
    found = sampling_of(asked, GREEDY, 0)
    assert (found.temperature, found.top_k, found.top_p) == (1.0, 0, 1.0)
    assert (dict(found.logit_bias), found.logprobs) == ({7: -3.0}, 2)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (b"{", InvalidRequest, "not JSON"),
        (b"[]", InvalidRequest, "a list of 0"),
        (b"[" * 100_000, InvalidRequest, "generation: "),
        (b" " * (MAX_ASKED_BYTES + 1), TooLarge, str(MAX_ASKED_BYTES)),
        (b"{}", InvalidRequest, "messages or a prompt"),
        (raw(messages=[{}]), InvalidRequest, "one of them alone"),
        (b'{"messages":[]}', InvalidRequest, "messages are empty"),
        (raw(n=0), InvalidRequest, "n is 0"),
        (raw(n=129), InvalidRequest, "n is 129"),
        (raw(max_tokens=0), InvalidRequest, "max_tokens is 0"),
        (raw(max_tokens=True), InvalidRequest, "max_tokens is true"),
        (raw(logprobs=21), InvalidRequest, "logprobs is 21"),
        (raw(prompt=[1, -1]), InvalidRequest, "prompt"),
        (raw(prompt=[2**31]), InvalidRequest, "prompt"),
        (b'{"prompt":"a","temperature":NaN}', InvalidRequest, "not JSON"),
        (b'{"prompt":"a","temperature":1e999}', InvalidRequest, "not JSON"),
        (raw(stop="a"), InvalidRequest, "stop is 'a'"),
        (raw(so_far={"1": [1]}), InvalidRequest, "choice '1'; n is 1"),
        (raw(so_far={"00": [1]}), InvalidRequest, "choice '00'"),
        (raw(n=2, ended=[0, 1]), InvalidRequest, "ended has all of the 2"),
    ],
)
def test_bad_values_are_told_with_limits(
    given: bytes, kind: type[CapameshError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        read_asked(given)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 1.5}, "top_p is 1.5; it may be 0 to 1"),
        ({"seed": -1}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias has 'x'"),
        ({"logit_bias": {"5": 101}}, "token 5 is 101"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "1025"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
    ],
)
def test_sampling_out_of_its_range_is_refused(fields: dict[str, Any], words: str) -> None:
    asked = read_asked(raw(**fields))
    with pytest.raises(InvalidRequest) as caught:
        sampling_of(asked, GREEDY, asked.seed or 0)
    assert words in caught.value.message
