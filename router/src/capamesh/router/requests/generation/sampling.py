"""Reads how an answer is to be drawn and where it ends: the fields that chat and completions have in common. Pure."""

from __future__ import annotations

from typing import Any, Final, cast

from capamesh.router.requests.generation.asked import SEEDS
from capamesh.router.requests.generation.bodies import StreamOptions
from capamesh.router.requests.generation.fields import (
    Values,
    flag,
    number,
    table,
    whole,
    wrong,
)
from capamesh.router.requests.generation.foreign_fields import taken
from capamesh.router.requests.invalid_parameter import InvalidParameter

MOST_STOPS: Final = 4
"""The most texts that end an answer: OpenAI's limit."""
MOST_STOP_CHARS: Final = 256
"""The most characters of one of them (guess)."""
MOST_BIASES: Final = 300
"""The most tokens with a bias: OpenAI's limit."""
MOST_BIAS: Final = 100.0
MOST_TOKEN: Final = 2**31 - 1
"""The largest number of a token."""
_NUMBERS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
"""The numbers that are passed on as they are."""


def sampling_of(values: Values, max_tokens: int | None) -> dict[str, Any]:
    """Return the fields by which a node draws and ends answers; those that are left out are the model's own.

    `values` are those of `Sampling`, within its bounds. Raises `InvalidParameter`.
    """
    found: dict[str, Any] = {
        name: float(values[name]) for name in _NUMBERS if values.get(name) is not None
    }
    top_k = values.get("top_k")
    if top_k is not None and top_k > 0:  # -1 and 0 stand for all
        found["top_k"] = top_k
    seed = whole(values, "seed", -(2**63), SEEDS - 1)
    if seed is not None:
        found["seed"] = seed % SEEDS
    if values.get("ignore_eos"):
        found["ignore_eos"] = True
    stops = _stops(values.get("stop"))
    if stops:
        found["stop"] = stops
        if values.get("include_stop_str_in_output"):
            found["keeps_stop"] = True
    if values.get("stop_token_ids"):
        found["stop_tokens"] = values["stop_token_ids"]
    min_tokens = values.get("min_tokens")
    if min_tokens:
        if max_tokens is not None and min_tokens > max_tokens:
            raise InvalidParameter(
                "min_tokens", f"min_tokens is {min_tokens}, and the answer may have {max_tokens}"
            )
        found["min_tokens"] = min_tokens
    biases = _biases(values)
    if biases:
        found["logit_bias"] = biases
    return found


def choices_of(values: Values) -> int:
    """Return how many answers each prompt is to have."""
    return values.get("n") or 1


def most_tokens_of(values: Values, *names: str) -> int | None:
    """Return the most tokens of an answer, by the first of `names` that is there; None: none is."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def stream_of(values: Values) -> tuple[bool, bool]:
    """Return whether the answer is to be streamed, and whether it then tells what it took. Raises `InvalidParameter`."""
    is_streamed = flag(values, "stream")
    options = table(values, "stream_options")
    if options is None:
        return is_streamed, False
    if not is_streamed:
        raise InvalidParameter(
            "stream_options",
            "stream_options are for streams; set stream to true, or leave them out",
        )
    taken(options, StreamOptions, at="stream_options.")
    return True, flag(options, "include_usage", at="stream_options.")


def _stops(given: object) -> list[str]:
    """Return the texts that end an answer."""
    stops = [] if given is None else [given]
    if isinstance(given, list):
        stops = cast("list[object]", given)
    if len(stops) > MOST_STOPS:
        raise InvalidParameter(
            "stop", f"stop has {len(stops)} texts; at most {MOST_STOPS} are taken"
        )
    found: list[str] = []
    for each in stops:
        if type(each) is not str or not 0 < len(each) <= MOST_STOP_CHARS:
            raise wrong(
                "stop",
                each,
                f"a text of 1 to {MOST_STOP_CHARS} characters is expected, or up to four",
            )
        found.append(each)
    return found


def _biases(values: Values) -> dict[str, float]:
    """Return the biases by their tokens' numbers."""
    biases = table(values, "logit_bias") or {}
    if len(biases) > MOST_BIASES:
        raise InvalidParameter(
            "logit_bias", f"logit_bias has {len(biases)} tokens; at most {MOST_BIASES} are taken"
        )
    found: dict[str, float] = {}
    for token in biases:
        if not (
            token.isascii() and token.isdigit() and len(token) <= 10 and int(token) <= MOST_TOKEN
        ):
            raise wrong("logit_bias", token, "the number of a token is expected")
        value = number(biases, token, -MOST_BIAS, MOST_BIAS, at="logit_bias.")
        found[str(int(token))] = 0.0 if value is None else value
    return found
