from __future__ import annotations

import math
from typing import Any

import pytest

from capamesh.node.generation import GenerationRequest, SamplingParameters
from capamesh.protocol.errors import InvalidRequest, TooLarge


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it may be 0 to 100"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 1.1}, "top_p is 1.1; it may be 0 to 1"),
        ({"top_k": -1}, "top_k is -1; it may be at least 0"),
        ({"min_p": 2.0}, "min_p is 2.0"),
        ({"presence_penalty": 101.0}, "presence_penalty is 101.0; it may be -100 to 100"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it may be 0.01 to 100"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"logprobs": 21}, "logprobs is 21; it may be -1 to 20"),
        ({"logit_bias": {3: math.inf}}, "logit_bias of token 3 is inf"),
        ({"logit_bias": dict.fromkeys(range(1025), 0.0)}, "logit_bias has 1025 tokens"),
    ],
)
def test_parameters_out_of_range_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        SamplingParameters(**values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"prompt": ()}, "the prompt has no tokens"),
        ({"max_tokens": 0}, "max_tokens is 0; it may be at least 1"),
        ({"choices": 0}, "n is 0; it may be 1 to 128"),
        ({"choices": 129}, "n is 129"),
        ({"priority": 1001}, "priority is 1001"),
        ({"stop_strings": ("",)}, "has 0 characters; it may have 1 to 1024"),
        ({"stop_strings": ("a",) * 17}, "stop has 17 strings; it may have 16"),
        ({"stop_tokens": frozenset(range(257))}, "257 tokens"),
        ({"deadline_s": math.nan}, "deadline"),
        ({"resumed": (1,), "choices": 2}, "each choice is resumed by a request of its own"),
        ({"resumed": (1, 2, 3)}, "3 tokens are resumed and max_tokens is 3"),
    ],
)
def test_requests_out_of_range_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        GenerationRequest(**({"prompt": (1,), "max_tokens": 3} | values))


def test_name_of_a_tenant_is_bounded() -> None:
    with pytest.raises(TooLarge):
        GenerationRequest((1,), 1, tenant="x" * 257)
