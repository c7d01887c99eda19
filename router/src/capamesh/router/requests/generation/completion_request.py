"""Reads the body of a request for the continuation of prompts, as OpenAI has it. Pure."""

from __future__ import annotations

from typing import Any, Final, cast

from capamesh.router.requests.generation.asked import Asked, affinity_of
from capamesh.router.requests.generation.bodies import CompletionRequest
from capamesh.router.requests.generation.chat_request import common_settings
from capamesh.router.requests.generation.fields import (
    Values,
    as_list,
    flag,
    model_of,
    text,
    wrong,
)
from capamesh.router.requests.generation.foreign_fields import taken
from capamesh.router.requests.generation.guides import guide_of
from capamesh.router.requests.generation.messages import MOST_ID
from capamesh.router.requests.generation.sampling import (
    MOST_TOKEN,
    choices_of,
    most_tokens_of,
    sampling_of,
    stream_of,
)
from capamesh.router.requests.invalid_parameter import InvalidParameter

MOST_PROMPTS: Final = 16
"""The most prompts of a request (guess: with the most choices they make 128 answers)."""
MOST_PROMPT_TOKENS: Final = 262_144
"""The most tokens of a prompt (guess: twice the longest context of common models)."""
USUAL_TOKENS: Final = 16
"""The most tokens of an answer where the request does not say: OpenAI's number."""
PREFIX: Final = 1024
"""The characters or tokens of a prompt that decide where it is run (guess: a page of text)."""


def read_completion(values: Values) -> Asked:
    """Return what a body asks for. Raises `InvalidParameter`."""
    model = model_of(taken(values, CompletionRequest))
    prompts = _prompts(values.get("prompt"))
    choices = choices_of(values)
    best_of = values.get("best_of")
    if best_of is not None and best_of != choices:
        raise InvalidParameter(
            "best_of",
            f"best_of is {best_of}, and n is {choices}; no more are made than are told: leave it out",
        )
    max_tokens = most_tokens_of(values, "max_tokens", "max_completion_tokens") or USUAL_TOKENS
    settings = {**sampling_of(values, max_tokens), **guide_of(values)}
    logprobs = values.get("logprobs")
    is_streamed, has_usage = stream_of(values)
    if flag(values, "echo"):
        if logprobs is not None:
            raise InvalidParameter(
                "echo", "echo is not supported with logprobs: those of a prompt are not told"
            )
        settings["echo"] = True
    settings.update(common_settings(choices, max_tokens, logprobs))
    named = text(values, "prompt_cache_key", MOST_ID)
    return Asked(
        model=model,
        prompts=tuple([{"prompt": prompt} for prompt in prompts]),
        settings=settings,
        choices=choices,
        max_tokens=max_tokens,
        logprobs=logprobs,
        is_streamed=is_streamed,
        has_usage=has_usage,
        affinity=affinity_of(named or prompts[0][:PREFIX]),
    )


def _prompts(given: object) -> list[Any]:
    """Return the prompts: texts, or lists of tokens."""
    if isinstance(given, str):
        return [_prompt(given, "prompt")]
    if not isinstance(given, list) or not given:
        raise InvalidParameter(
            "prompt", "prompt is missing or empty; give a text, tokens, or a list of either"
        )
    found = cast("list[object]", given)
    if type(found[0]) is int:
        return [_prompt(found, "prompt")]
    if len(found) > MOST_PROMPTS:
        raise InvalidParameter(
            "prompt", f"prompt has {len(found)} prompts; at most {MOST_PROMPTS} are taken at once"
        )
    return [_prompt(each, f"prompt[{place}]") for place, each in enumerate(found)]


def _prompt(given: object, at: str) -> str | list[int]:
    if isinstance(given, str):
        if not given:
            raise InvalidParameter(
                "prompt", f"{at} is an empty text; give it at least one character"
            )
        return given
    found = as_list(given)
    if not found:
        raise wrong(at, given, "a text or a list of tokens is expected")
    tokens = cast("list[int]", found)
    if len(tokens) > MOST_PROMPT_TOKENS:
        raise InvalidParameter(
            "prompt", f"{at} has {len(tokens)} tokens; at most {MOST_PROMPT_TOKENS} are taken"
        )
    if set(map(type, tokens)) != {int} or min(tokens) < 0 or max(tokens) > MOST_TOKEN:
        raise InvalidParameter(
            "prompt", f"{at} has tokens that are no whole numbers from 0 to {MOST_TOKEN}"
        )
    return tokens
