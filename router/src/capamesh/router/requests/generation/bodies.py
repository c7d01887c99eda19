"""The JSON that requests for generation may have, as types: bodies are read, described and documented by these. Pure.

`null` stands for a field that is left out. What else other servers take is in `foreign_fields`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from capamesh.protocol.schema import Meta

Tokens = Annotated[int, Meta(ge=1, le=131_072)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Alternatives = Annotated[int, Meta(ge=0, le=20)]
TokenNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]


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

    include_usage: NotRequired[bool | None]
    """True if a last event without choices tells the tokens that it took."""


class ResponseFormat(TypedDict):
    """The form that an answer's text must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NotRequired[dict[str, Any] | None]
    """The schema as `schema`; what stands beside it is skipped."""
    schema: NotRequired[dict[str, Any] | None]
    """The schema, as llama.cpp and Together have it."""


class StructuredOutputs(TypedDict):
    """The form that an answer's text must have, as vLLM has it: one of these."""

    json: NotRequired[dict[str, Any] | str | None]
    """A JSON schema, or its text."""
    json_object: NotRequired[bool | None]
    """True for any JSON object."""
    regex: NotRequired[str | None]
    choice: NotRequired[list[str] | None]
    grammar: NotRequired[str | None]


class Sampling(TypedDict):
    """The way in which answers are drawn and end."""

    temperature: NotRequired[Annotated[float, Meta(ge=0, le=2)] | None]
    """0 takes the likeliest token each time."""
    top_p: NotRequired[Share | None]
    """The likeliest tokens that together have this share of the odds are drawn from."""
    top_k: NotRequired[Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None]
    """The number of likeliest tokens that are drawn from; -1 and 0: all."""
    min_p: NotRequired[Share | None]
    """The share of the likeliest token's odds that a token must have."""
    presence_penalty: NotRequired[Penalty | None]
    """What a token loses of its score that was generated before."""
    frequency_penalty: NotRequired[Penalty | None]
    """What a token loses of its score for each time that it was generated before."""
    repetition_penalty: NotRequired[Annotated[float, Meta(ge=0.01, le=10)] | None]
    """What the score of a token of the prompt or the answer is divided by."""
    logit_bias: NotRequired[dict[str, Annotated[float, Meta(ge=-100, le=100)] | None] | None]
    """Biases of at most 300 tokens, by their numbers."""
    seed: NotRequired[int | None]
    """The number that stands for all draws."""
    stop: NotRequired[str | Annotated[list[str], Meta(max_length=4)] | None]
    """Texts of at most 256 characters that end an answer and are not part of it."""
    include_stop_str_in_output: NotRequired[bool | None]
    """True if the text of `stop` that ends an answer is part of it."""
    stop_token_ids: NotRequired[Annotated[list[TokenNumber], Meta(max_length=256)] | None]
    """Tokens that end an answer, by their numbers; their text is not part of it."""
    min_tokens: NotRequired[Annotated[int, Meta(ge=0, le=131_072)] | None]
    """The tokens of an answer before which nothing of the above ends it; not beside a grammar or tools."""
    ignore_eos: NotRequired[bool | None]
    """True if an answer goes on where the model would end it."""


class Guided(TypedDict):
    """The grammar that an answer's text must follow, under the names of vLLM, SGLang and llama.cpp; at most one is given."""

    response_format: NotRequired[ResponseFormat | None]
    """The answer is held to the schema while it is made."""
    structured_outputs: NotRequired[StructuredOutputs | None]
    """The same as an object of vLLM's: `json`, `json_object`, `regex`, `choice` or `grammar`."""
    guided_json: NotRequired[dict[str, Any] | str | None]
    """A JSON schema, or its text."""
    json_schema: NotRequired[dict[str, Any] | str | None]
    """The same as `guided_json`."""
    guided_regex: NotRequired[str | None]
    """A regular expression of at most 8,192 characters, in the syntax of Rust's regex without look-around."""
    regex: NotRequired[str | None]
    """The same as `guided_regex`."""
    guided_choice: NotRequired[list[str] | None]
    """The texts of which the answer is one, up to 1,024."""
    guided_grammar: NotRequired[str | None]
    """Rules of at most 8,192 characters, in Lark (with `start:`, without `&` and `~`) or GBNF (with `root ::=`)."""
    grammar: NotRequired[str | None]
    """The same as `guided_grammar`."""
    ebnf: NotRequired[str | None]
    """The same as `guided_grammar`."""


class Common(Sampling, Guided):
    """The fields that chats and completions have in common."""

    model: str
    """A model for `chat`."""
    n: NotRequired[Annotated[int, Meta(ge=1, le=8)] | None]
    """The number of answers."""
    max_tokens: NotRequired[Tokens | None]
    """The most tokens of an answer; left out: as many as the model has room for, and 16 of `/v1/completions`."""
    max_completion_tokens: NotRequired[Tokens | None]
    """The same as `max_tokens`."""
    stream: NotRequired[bool | None]
    """True if the answer comes as server-sent events."""
    stream_options: NotRequired[StreamOptions | None]
    """`include_usage`: a last event with the tokens that it took."""
    prompt_cache_key: NotRequired[Annotated[str, Meta(max_length=256)] | None]
    """Requests with the same one go to the same node."""


class ChatRequest(Common):
    """A chat of which the next message is wanted. Fields that are not known are refused."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=2048)]
    """Up to 2,048; `developer` is the role `system`, and contents are texts or parts of the type `text`."""
    logprobs: NotRequired[bool | None]
    """True if the log probability of each token is told."""
    top_logprobs: NotRequired[Alternatives | None]
    """The likeliest tokens that are told with each."""
    tools: NotRequired[Annotated[list[Tool], Meta(max_length=128)] | None]
    """The functions that the model may call."""
    tool_choice: NotRequired[str | dict[str, Any] | None]
    """`auto`, `none`, `required`, or one function by name."""
    parallel_tool_calls: NotRequired[bool | None]
    """False allows one call an answer."""
    chat_template_kwargs: NotRequired[dict[str, Any] | None]
    """Values for the model's template."""


class CompletionRequest(Common):
    """Texts of which the continuations are wanted. Fields that are not known are refused."""

    prompt: str | list[str | int | list[int]]
    """A text, its tokens, or up to 16 of either, each of which is run by itself."""
    logprobs: NotRequired[Alternatives | None]
    """The likeliest tokens that are told with each."""
    echo: NotRequired[bool | None]
    """True if answers begin with their prompt; not with `logprobs`."""
    best_of: NotRequired[int | None]
    """The same as `n`, or left out."""
    add_special_tokens: NotRequired[Literal[True] | None]
    """A text begins as the model's do; send tokens where it should not."""


class ResponseText(TypedDict):
    """The form of a response's text."""

    format: NotRequired[dict[str, Any] | None]
    """As `response_format`, with what is in `json_schema` there beside the type."""


class ResponseRequest(Sampling, Guided):
    """The items of a conversation of which the next is wanted. Fields that are not known are refused."""

    model: str
    """A model for `chat`."""
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)]
    """A text, or items: messages, calls of functions and their outputs."""
    instructions: NotRequired[str | None]
    """The message of the role `system` before it."""
    max_output_tokens: NotRequired[Tokens | None]
    """The most tokens of an answer."""
    text: NotRequired[ResponseText | None]
    """The form of the answer's text, as `format`."""
    tools: NotRequired[Annotated[list[dict[str, Any]], Meta(max_length=128)] | None]
    """The functions that the model may call."""
    tool_choice: NotRequired[str | dict[str, Any] | None]
    """`auto`, `none`, `required`, or one function by name."""
    parallel_tool_calls: NotRequired[bool | None]
    """False allows one call an answer."""
    chat_template_kwargs: NotRequired[dict[str, Any] | None]
    """Values for the model's template."""
    stream: NotRequired[bool | None]
    """True if the answer comes as server-sent events."""
    prompt_cache_key: NotRequired[Annotated[str, Meta(max_length=256)] | None]
    """Requests with the same one go to the same node."""


class OllamaMessage(TypedDict):
    """A message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]


class OllamaOptions(Sampling):
    """The way in which an answer is drawn and ends, as Ollama has it. Options that are not known are refused."""

    repeat_penalty: NotRequired[Annotated[float, Meta(ge=0.01, le=10)] | None]
    """The same as `repetition_penalty`."""
    num_predict: NotRequired[Annotated[int, Meta(ge=-2, le=131_072)] | None]
    """The most tokens of an answer; under 1: as many as the model has room for."""


class OllamaRequest(TypedDict):
    """The fields that both kinds of requests have. Fields that are not known are refused."""

    model: str
    """A model for `chat`; `:latest` behind it is skipped."""
    stream: NotRequired[bool | None]
    """False if the answer is wanted at once; left out: true."""
    format: NotRequired[str | dict[str, Any] | None]
    """`json`, or a JSON schema that the answer must follow."""
    options: NotRequired[OllamaOptions | None]
    """The way in which the answer is drawn and ends."""


class OllamaChatRequest(OllamaRequest):
    """A chat of which the next message is wanted."""

    messages: Annotated[list[OllamaMessage], Meta(min_length=1, max_length=2048)]
    """The messages, as texts."""
    tools: NotRequired[Annotated[list[dict[str, Any]], Meta(max_length=128)] | None]
    """The functions that the model may call."""


class OllamaTextRequest(OllamaRequest):
    """A message, or with `raw` a text, of which the answer is wanted."""

    prompt: str
    """The text."""
    system: NotRequired[str | None]
    """The message of the role `system` before it."""
    raw: NotRequired[bool | None]
    """True if the text is gone on with as it is, without the model's template."""


class TextInputRequest(Sampling, Guided):
    """A text that is gone on with, as Triton's backends for language models have it; the fields may stand in `parameters`, too."""

    text_input: NotRequired[str | None]
    """The text."""
    parameters: NotRequired[dict[str, Any] | None]
    """The other fields may stand in it, too."""
    id: NotRequired[str | None]
    """The client's own word, which is told back."""
    max_tokens: NotRequired[Tokens | None]
    """The most tokens of an answer; left out: 16."""
    stop_words: NotRequired[str | Annotated[list[str], Meta(max_length=4)] | None]
    """The same as `stop`."""
    exclude_input_in_output: NotRequired[bool | None]
    """False if the answer begins with the text."""
    stream: NotRequired[bool | None]
    """Skipped: the route says it."""
    model: NotRequired[str | None]
    """Skipped: the path says it."""
