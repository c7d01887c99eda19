"""The requests for generation, as values that either client can send: OpenAI's form. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar, cast

from capamesh.client.answers import Answer, failure_of
from capamesh.client.asks import GRACE_S, Ask, checked_timeout
from capamesh.client.generation.answers import Assembly, read_generation
from capamesh.client.generation.parameters import CHAT_NAMES, COMPLETION_NAMES, given
from capamesh.client.generation.values import Generation
from capamesh.client.routing_options import RoutingOptions
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Limits

T = TypeVar("T")

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETION_PATH: Final = "/v1/completions"
MOST_WAIT_S: Final = 660.0
"""The longest wait for an answer where the caller names no time: routers end one after ten minutes by default."""

Messages: TypeAlias = str | Sequence[Mapping[str, Any]]
"""The messages of a chat, as OpenAI has them; a text is one of the role `user`."""
Prompt: TypeAlias = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]
"""A text, the numbers of its tokens, or several of either."""


@dataclass(frozen=True, slots=True)
class Question:
    """The fields of a request, and the route by which they are asked."""

    path: str
    fields: Mapping[str, Any]
    timeout_s: float | None
    routing: RoutingOptions
    limits: Limits

    def whole(self) -> Ask[Generation]:
        """Return the request for an answer that comes at once."""
        return self._ask(self.fields, read_generation, is_streamed=False)

    def streamed(self) -> Ask[tuple[Answer, Assembly]]:
        """Return the request for an answer that is read as it comes."""
        fields = {**self.fields, "stream": True, "stream_options": {"include_usage": True}}
        return self._ask(fields, self._begun, is_streamed=True)

    def _begun(self, answer: Answer, url: str) -> tuple[Answer, Assembly]:
        if answer.status != 200:
            raise failure_of(answer, url)
        return answer, Assembly(answer, url, self.limits.max_message_bytes)

    def _ask(
        self,
        fields: Mapping[str, Any],
        read: Callable[[Answer, str], T],
        *,
        is_streamed: bool,
    ) -> Ask[T]:
        body = _json_of(fields)
        headers = {"Content-Type": "application/json", **self.routing.headers()}

        def within(timeout_s: float | None) -> Ask[T]:
            """Return the request of a caller who waits so many seconds; None: as long as it takes."""
            return Ask(
                "POST",
                self.path,
                read,
                MOST_WAIT_S if timeout_s is None else timeout_s + GRACE_S,
                (body,),
                headers,
                self.limits,
                renew=within,
                grace_s=0.0 if timeout_s is None else GRACE_S,
                is_streamed=is_streamed,
            )

        return within(self.timeout_s)


def ask_chat(
    model: str,
    messages: Messages,
    parameters: Mapping[str, Any],
    *,
    timeout_s: float | None,
    routing: RoutingOptions,
    limits: Limits,
) -> Question:
    """Return the question for a chat's next message. Raises `InvalidRequest` for what cannot be asked."""
    sent = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    fields = {"model": _named(model), "messages": sent, **given(parameters, CHAT_NAMES)}
    return Question(CHAT_PATH, fields, checked_timeout(timeout_s), routing, limits)


def ask_complete(
    model: str,
    prompt: Prompt,
    parameters: Mapping[str, Any],
    *,
    timeout_s: float | None,
    routing: RoutingOptions,
    limits: Limits,
) -> Question:
    """Return the question for the continuation of one prompt or several. Raises `InvalidRequest` for what cannot be asked."""
    sent = prompt if isinstance(prompt, str) else [_plain(each) for each in prompt]
    fields = {"model": _named(model), "prompt": sent, **given(parameters, COMPLETION_NAMES)}
    return Question(COMPLETION_PATH, fields, checked_timeout(timeout_s), routing, limits)


def _plain(prompt: object) -> object:
    """Return a text, a token's number or a list of them as JSON has it."""
    if isinstance(prompt, str):
        return prompt
    if hasattr(prompt, "tolist"):  # numpy's numbers and arrays
        return cast("Any", prompt).tolist()
    return list(cast("Sequence[int]", prompt)) if isinstance(prompt, Sequence) else prompt


def _named(model: str) -> str:
    if not model:
        raise InvalidRequest("the model's name is empty; see the list: capamesh models")
    return model


def _json_of(fields: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequest(
            f"the request cannot be sent as JSON: {exc}; give texts, numbers, lists and dicts of them"
        ) from exc
