"""The JSON of OpenAI's routes for generation, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from capamesh.protocol.schema import Meta

Count = Annotated[int, Meta(ge=0)]
Tokens = Annotated[int, Meta(ge=1, le=131_072)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Finish = Literal["stop", "length", "tool_calls"]
Alternatives = Annotated[int, Meta(ge=0, le=20)]


class Function(TypedDict):
    """A function that a model may call."""

    name: Annotated[str, Meta(max_length=64)]
    description: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]
    """The JSON schema of its arguments."""
    strict: NotRequired[bool]
    """True if arguments must follow the schema."""


class Tool(TypedDict):
    """A tool that a model may call."""

    type: Literal["function"]
    function: Function


class CalledFunction(TypedDict):
    """The function of a call."""

    name: str
    arguments: str
    """The arguments as JSON, as the model wrote them."""


class ToolCall(TypedDict):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class TextPart(TypedDict):
    """A part of a message's content; parts of other kinds are refused."""

    type: Literal["text", "refusal"]
    text: NotRequired[str]
    refusal: NotRequired[str]


class Message(TypedDict):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: NotRequired[str | list[TextPart] | None]
    """The text; the texts of several parts are joined, one a line."""
    name: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    """The call that a message of the role `tool` answers."""


class StreamOptions(TypedDict):
    """The wishes for what a stream tells."""

    include_usage: NotRequired[bool]
    """True if a last event without choices tells the tokens that it took."""


class ResponseFormat(TypedDict):
    """The form that an answer's text must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NotRequired[dict[str, Any]]
    """The schema as `schema`; what stands beside it is skipped."""


class Sampling(TypedDict):
    """The way in which answers are drawn and end."""

    n: NotRequired[Annotated[int, Meta(ge=1, le=8)]]
    """The number of answers."""
    temperature: NotRequired[Annotated[float, Meta(ge=0, le=2)]]
    top_p: NotRequired[Share]
    top_k: NotRequired[Annotated[int, Meta(ge=-1)]]
    min_p: NotRequired[Share]
    presence_penalty: NotRequired[Penalty]
    frequency_penalty: NotRequired[Penalty]
    repetition_penalty: NotRequired[Annotated[float, Meta(gt=0, le=10)]]
    logit_bias: NotRequired[dict[str, Annotated[float, Meta(ge=-100, le=100)]]]
    """Biases of at most 300 tokens, by their numbers."""
    seed: NotRequired[int]
    stop: NotRequired[str | Annotated[list[str], Meta(max_length=4)] | None]
    """Texts that end an answer and are not part of it."""
    ignore_eos: NotRequired[bool]
    """True if an answer goes on where the model would end it."""
    stream: NotRequired[bool]
    """True if the answer comes as server-sent events."""
    stream_options: NotRequired[StreamOptions | None]
    user: NotRequired[str]
    """The client's own word; it is skipped."""


class ChatRequest(Sampling):
    """A chat of which the next message is wanted. Fields that are not known are skipped."""

    model: str
    """A model for `chat`."""
    messages: Annotated[list[Message], Meta(min_length=1, max_length=2048)]
    max_tokens: NotRequired[Tokens | None]
    max_completion_tokens: NotRequired[Tokens | None]
    """The most tokens of an answer; it goes before `max_tokens`."""
    logprobs: NotRequired[bool]
    top_logprobs: NotRequired[Alternatives | None]
    response_format: NotRequired[ResponseFormat | None]
    tools: NotRequired[Annotated[list[Tool], Meta(max_length=128)]]
    tool_choice: NotRequired[str | dict[str, Any]]
    parallel_tool_calls: NotRequired[bool]
    chat_template_kwargs: NotRequired[dict[str, Any]]
    """Values for the model's template."""


class CompletionRequest(Sampling):
    """Texts of which the continuations are wanted. Fields that are not known are skipped."""

    model: str
    """A model for `chat`."""
    prompt: str | list[str | int | list[int]]
    """A text, its tokens, or up to 16 of either."""
    max_tokens: NotRequired[Tokens | None]
    """The most tokens of an answer; left out: 16."""
    logprobs: NotRequired[Alternatives | None]
    echo: NotRequired[bool]
    """True if answers begin with their prompt."""
    best_of: NotRequired[int]
    """The same as `n`, or left out."""


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


class ResponseRequest(TypedDict):
    """The items of a conversation of which the next is wanted. Fields that are not known are skipped."""

    model: str
    """A model for `chat`."""
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)]
    """A text, or items: messages, calls of functions and their outputs."""
    instructions: NotRequired[str | None]
    max_output_tokens: NotRequired[Tokens | None]
    temperature: NotRequired[Annotated[float, Meta(ge=0, le=2)] | None]
    top_p: NotRequired[Share | None]
    text: NotRequired[dict[str, Any] | None]
    """The form of the answer's text, as `format`."""
    tools: NotRequired[Annotated[list[dict[str, Any]], Meta(max_length=128)]]
    tool_choice: NotRequired[str | dict[str, Any]]
    parallel_tool_calls: NotRequired[bool]
    stream: NotRequired[bool]
    store: NotRequired[Literal[False]]
    """The value is false, if it is there: nothing is stored."""


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
