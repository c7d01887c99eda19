"""Bodies of requests for continuations: what nodes are asked, and what is refused by which name."""

from __future__ import annotations

from typing import Any

import pytest

from capamesh.router.requests.generation.asked import Asked
from capamesh.router.requests.generation.completion_request import read_completion
from capamesh.router.requests.invalid_parameter import InvalidParameter


def completion(**fields: Any) -> Asked:
    return read_completion({"model": "m", "prompt": "Hi", **fields})


def test_echo_is_not_asked_for_again_behind_what_there_is() -> None:
    asked = completion(echo=True)
    assert b'"echo":true' in bytes(asked.call(asked.prompts[0]).inputs[0].data)
    assert b"echo" not in bytes(asked.call(asked.prompts[0], {0: [1]}).inputs[0].data)


def test_beginning_of_the_prompt_decides_where_it_is_run() -> None:
    long = "x" * 1024
    assert completion(prompt=long).affinity == completion(prompt=f"{long} more").affinity
    assert completion(prompt=long).affinity != completion(prompt="y").affinity
    assert completion(prompt=[1, 2]).affinity != completion(prompt=[1, 3]).affinity


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": ["a", ""]}, "prompt", "prompt[1] is an empty text"),
        ({"prompt": ["a"] * 17}, "prompt", "at most 16"),
        ({"prompt": [1, "a"]}, "prompt", "no whole numbers"),
        ({"prompt": [2**31]}, "prompt", "from 0"),
        ({"prompt": [[]]}, "prompt[0]", "a list of tokens"),
        ({"prompt": [1] * 262_145}, "prompt", "at most 262144"),
        ({"suffix": "x"}, "suffix", "fill in none"),
        ({"best_of": 2}, "best_of", "n is 1"),
        ({"echo": True, "logprobs": 0}, "echo", "logprobs"),
        ({"logprobs": 21}, "logprobs", "from 0 to 20"),
    ],
)
def test_field_that_is_wrong_is_told_by_its_name(fields: Any, param: str, said: str) -> None:
    with pytest.raises(InvalidParameter) as told:
        completion(**fields)
    assert told.value.param == param
    assert said in told.value.message
