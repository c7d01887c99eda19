"""The values that a client gets of a generation: whole answers, their choices, pieces of streams. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from capamesh.client.timings import NOT_TIMED, Timings


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The tokens that a request took."""

    prompt_tokens: int = 0
    """The tokens of all prompts, what the chat's template adds included."""
    completion_tokens: int = 0
    """The tokens of all choices."""
    cached_tokens: int = 0
    """The tokens of the prompts that did not have to run, for the node had kept their state."""

    @property
    def total_tokens(self) -> int:
        """Return the tokens of prompts and choices."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of one token, and of those that were likeliest in its place."""

    token: str
    """The token's text."""
    logprob: float
    """The natural logarithm of its probability."""
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens with theirs, as many as were asked for."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model asks for, or in a stream a piece of one."""

    index: int
    """The number of the call in its choice."""
    id: str
    """The text by which a message of the role `tool` answers it; in a stream it is in the first piece alone, as is the name."""
    name: str
    """The tool's name."""
    arguments: str
    """The arguments as JSON, or in a stream the next characters of it. A model wrote it: check it."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of a choice, as it came in a stream."""

    text: str = ""
    """The characters that come next."""
    choice: int = 0
    """The choice that they are of."""
    finish: str = ""
    """The reason why the choice has ended: stop, length or tool_calls; empty: it has not."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The pieces of calls of tools."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The log probabilities of its tokens, where they were asked for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer to a prompt."""

    text: str
    """The text of it."""
    finish: str
    """The reason why it has ended: `stop`, `length` (it has as many tokens as it may) or `tool_calls`."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls of tools that the model asks for."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The log probabilities of its tokens, where they were asked for."""

    def as_message(self) -> dict[str, object]:
        """Return it as the message of a chat, to send with the next request."""
        message: dict[str, object] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one request for a chat's next message, or for the continuation of prompts."""

    choices: tuple[Choice, ...]
    """The answers: of several prompts those to the first come first."""
    usage: TokenUsage
    """The tokens that it took."""
    model: str
    """The model's name, as the router says it."""
    id: str = ""
    """The text by which the router calls the answer."""
    nodes: tuple[str, ...] = ()
    """The peer ids of the nodes that answered, the first eight."""
    router: str = ""
    """The URL of the router that answered."""
    resumes: int = 0
    """The times that another node went on, for one was lost."""
    timings: Timings = NOT_TIMED
    """The seconds that the answer took; of a stream, `wait_s` ends where its first piece came."""

    @property
    def text(self) -> str:
        """Return the text of the first choice."""
        return self.choices[0].text if self.choices else ""

    @property
    def finish(self) -> str:
        """Return the reason why the first choice has ended."""
        return self.choices[0].finish if self.choices else ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls of tools of the first choice."""
        return self.choices[0].tool_calls if self.choices else ()
