"""The JSON of answers of OpenAI's routes for generation, as types; that of requests is where they are read. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from capamesh.protocol.schema import Meta
from capamesh.router.requests.generation.bodies import ToolCall

Count = Annotated[int, Meta(ge=0)]
Finish = Literal["stop", "length", "tool_calls"]


class PromptDetails(TypedDict):
    """The details of a prompt's tokens."""

    cached_tokens: Count
    """The tokens that did not have to run, for the state behind them was kept."""


class GenerationUsage(TypedDict):
    """The tokens that a request took."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails


class Logprob(TypedDict):
    """A token and its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None
    """The bytes of the text; null: it is no whole character."""


class TokenLogprob(Logprob):
    """A token of an answer, and the likeliest in its place."""

    top_logprobs: list[Logprob]


class ChatLogprobs(TypedDict):
    """The log probabilities of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None


class ChatMessage(TypedDict):
    """The message that was generated."""

    role: Literal["assistant"]
    content: str | None
    """The text; null: there are calls of tools alone."""
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One answer."""

    index: Count
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class Chat(TypedDict):
    """The next message of a chat, once for each answer wanted."""

    id: str
    object: Literal["chat.completion"]
    created: Count
    """The time of the request, in seconds since 1970."""
    model: str
    choices: list[ChatChoice]
    usage: GenerationUsage


class CompletionLogprobs(TypedDict):
    """The log probabilities of a continuation's tokens, in four lists."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[Count]


class CompletionChoice(TypedDict):
    """One continuation."""

    index: Count
    """The place of its prompt, times `n`, and its number among the prompt's answers."""
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish


class Completion(TypedDict):
    """The continuations of all prompts."""

    id: str
    object: Literal["text_completion"]
    created: Count
    """The time of the request, in seconds since 1970."""
    model: str
    choices: list[CompletionChoice]
    usage: GenerationUsage


class InputDetails(TypedDict):
    """The details of an input's tokens."""

    cached_tokens: Count


class OutputDetails(TypedDict):
    """The details of an output's tokens."""

    reasoning_tokens: Count


class ResponseUsage(TypedDict):
    """The tokens that a response took."""

    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class Response(TypedDict):
    """A response; many fields stand here because OpenAI's clients look for them."""

    id: str
    object: Literal["response"]
    created_at: Count
    """The time of the request, in seconds since 1970."""
    model: str
    status: Literal["completed", "incomplete"]
    incomplete_details: dict[str, Any] | None
    output: list[dict[str, Any]]
    """The message, and calls of functions."""
    usage: ResponseUsage
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    parallel_tool_calls: bool
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    error: None
    previous_response_id: None
    reasoning: None
    store: Literal[False]
    truncation: Literal["disabled"]
    metadata: dict[str, str]
