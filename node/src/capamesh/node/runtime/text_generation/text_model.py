"""Makes generations of calls, for one model: templates, tokens, grammars. Blocks: it is called in threads. Pure but for libraries.

A call is one prompt with several answers; where another node was lost, each answer goes on behind its own tokens.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from capamesh.node.generation import Constraint, GenerationRequest, TokenText
from capamesh.node.generation.admission import over_context
from capamesh.node.generation.request import MAX_PRIORITY
from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder
from capamesh.node.runtime.text_generation.asked import Asked, Guide, read_asked, sampling_of
from capamesh.node.runtime.text_generation.chat_template import ChatTemplate
from capamesh.node.runtime.text_generation.control_marks import BREAK
from capamesh.node.runtime.text_generation.grammars import ANY_JSON, Grammar, Grammars
from capamesh.node.runtime.text_generation.tokens import GenerationTokenizer
from capamesh.node.runtime.text_generation.tool_asked import AskedTools, with_arguments
from capamesh.node.runtime.text_generation.tool_calls import ModelTools
from capamesh.node.runtime.text_generation.tool_reader import ToolCallReader
from capamesh.protocol.errors import InvalidRequest, ModelInvalid

_SEED_BITS: Final = 63


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A call that is read: what the engine is asked."""

    requests: tuple[GenerationRequest, ...]
    """One with all choices; of a call that goes on behind tokens, one for each choice that has not ended."""
    new_text: Callable[[], TokenText]
    new_constraint: Callable[[], Constraint] | None
    echo: str
    """The text that each answer begins with."""
    seed: int
    arithmetic: str = ""
    """The name of the way in which numbers are rounded here: where it is another, a text may go on in other words."""
    tool_readers: Mapping[int, ToolCallReader] = field(default_factory=dict[int, ToolCallReader])
    """The readers of calls of tools in the text, by choices; none where there are no tools."""

    @property
    def choices(self) -> tuple[int, ...]:
        """Return the numbers of the choices that are generated."""
        return tuple(
            request.first_choice + number
            for request in self.requests
            for number in range(request.choices)
        )


class TextModel:
    """The texts of one model. Safe to use from several threads at once."""

    def __init__(
        self,
        folder: DecoderFolder,
        raw_tokenizer: bytes,
        *,
        length: int,
        control_tokens_in_text: bool = False,
        arithmetic: str = "",
    ) -> None:
        """`raw_tokenizer` is the tokenizer's file; `length` is the most tokens of a prompt with its answer.

        `control_tokens_in_text` is true where the text of a control token within a message is that token.

        Raises `ModelInvalid`: tokenizer or template cannot be used, or a package is missing.
        """
        config = folder.config
        self._config = config
        self._arithmetic = arithmetic
        self._length = length
        self._tokenizer = GenerationTokenizer(raw_tokenizer, config.end_ids)
        self._control_tokens_in_text = control_tokens_in_text
        self._template: ChatTemplate | None = None
        if folder.chat_template:
            self._template = ChatTemplate(
                folder.chat_template, folder.special_tokens, lambda: datetime.now(UTC)
            )
        self.token_text = self._tokenizer.token_text
        """Returns the text of one token."""
        self._grammars: Grammars | None = None
        self.notes: tuple[str, ...] = ()
        """The lines for the operator on what cannot be asked of the model."""
        try:
            self._grammars = Grammars(raw_tokenizer, config.vocabulary, config.end_ids)
        except ModelInvalid as error:
            self.notes = (f"answers cannot follow a grammar: {error.message}",)
        self._tools = ModelTools(folder.chat_template, self._tokenizer, self._grammars)

    def read(
        self,
        raw: bytes | memoryview,
        *,
        priority: float,
        deadline_s: float | None,
        is_bulk: bool = False,
    ) -> ReadCall:
        """Return what `raw`, the JSON of a call, asks the engine for. Blocks: 3 ms for 1,000 tokens.

        Raises `InvalidRequest`, `TooLarge`: a value is out of its range, the template refuses the messages, or the prompt has no room.
        """
        asked = read_asked(raw)
        tools = self._tools.read(asked)
        prompt = self._prompt(asked)
        room = self._length - len(prompt)
        if room < 1:
            raise over_context(len(prompt), self._length)
        seed = secrets.randbits(_SEED_BITS) if asked.seed is None else asked.seed
        ends = () if asked.ignore_eos else self._config.end_ids
        common: dict[str, Any] = {
            "prompt": tuple(prompt),
            "max_tokens": min(asked.max_tokens or room, room),
            "sampling": sampling_of(asked, self._config.search, seed),
            "stop_tokens": frozenset((*ends, *asked.stop_tokens)),
            "stop_strings": asked.stop,
            "keeps_stop": asked.keeps_stop,
            "min_tokens": asked.min_tokens,
            "tenant": asked.cache_salt,
            "share": asked.share,
            "priority": min(max(int(priority), 0), MAX_PRIORITY),
            "is_bulk": is_bulk,
            "deadline_s": math.inf if deadline_s is None else deadline_s,
        }
        if asked.is_resumed:
            requests = tuple(
                GenerationRequest(
                    **common,
                    first_choice=choice,
                    resumed=asked.so_far.get(str(choice), ()),
                )
                for choice in range(asked.n)
                if choice not in asked.ended
            )
        else:
            requests = (GenerationRequest(**common, choices=asked.n),)
        return ReadCall(
            requests,
            self._tokenizer.new_text if tools is None else self._tools.new_text,
            self._constraint(asked, tools, sum(each.choices for each in requests)),
            self._echo(asked),
            seed,
            self._arithmetic,
            {} if tools is None else self._readers(requests, tools),
        )

    def _prompt(self, asked: Asked) -> list[int]:
        tokenizer = self._tokenizer
        if asked.messages is not None:
            text = self._chat(asked, asked.messages)
            tokenizer.check_length(text, self._length)
            is_plain = not self._control_tokens_in_text
            is_broken = is_plain and (tokenizer.may_fold or BREAK in text)
            return tokenizer.encode(text, adds_special=False, is_broken=is_broken)
        if isinstance(asked.prompt, str):
            tokenizer.check_length(asked.prompt, self._length)
            return tokenizer.encode(asked.prompt, adds_special=True)
        return list(asked.prompt or ())

    def _chat(self, asked: Asked, messages: tuple[Mapping[str, Any], ...]) -> str:
        if self._template is None:
            raise InvalidRequest(
                "the model has no chat template, and goes on with texts alone: send a prompt (/v1/completions)"
            )
        told = with_arguments(messages)
        tools = asked.tools if asked.tool_choice != "none" else ()
        extra = asked.template
        if not self._control_tokens_in_text:
            told, tools, extra = self._tokenizer.marks.broken((told, tools, extra))
        return self._template.render(told, tools=tools, extra=extra)

    def _readers(
        self, requests: tuple[GenerationRequest, ...], tools: AskedTools
    ) -> dict[int, ToolCallReader]:
        found: dict[int, ToolCallReader] = {}
        for request in requests:
            for choice in range(request.first_choice, request.first_choice + request.choices):
                reader = self._tools.reader(tools, request)
                if reader is not None:
                    found[choice] = reader
        return found

    def _echo(self, asked: Asked) -> str:
        if not asked.echo or asked.prompt is None:
            return ""
        if isinstance(asked.prompt, str):
            return asked.prompt
        return self._tokenizer.decode(list(asked.prompt))

    def _constraint(
        self, asked: Asked, tools: AskedTools | None, choices: int
    ) -> Callable[[], Constraint] | None:
        guide = asked.guide
        grammar = None if guide is None else grammar_of(guide)
        if tools is not None:
            schema: dict[str, Any] | bool | None = None
            if guide is not None and not tools.must_call:
                if grammar is not None and grammar.kind not in ("json", "json_schema"):
                    raise InvalidRequest(
                        f"guide is of the kind {grammar.kind}, which cannot be had beside tools: send a schema, or no tools"
                    )
                schema = ANY_JSON if guide.schema is None else guide.schema
            grammar = self._tools.grammar(tools, schema)
        if grammar is None:
            return None
        if asked.min_tokens:
            raise InvalidRequest(
                f"min_tokens is {asked.min_tokens}, which cannot be had with a grammar or tools: leave it out"
            )
        if self._grammars is not None:
            return self._grammars.compile(grammar, choices, asked.cache_salt)
        if guide is None and tools is not None and not (tools.must_call or tools.is_single):
            return None
        raise InvalidRequest(f"guide and tool_choice: {self.notes[0]}")


def grammar_of(guide: Guide) -> Grammar:
    """Return the grammar that a call tells. Raises `InvalidRequest`: it tells none."""
    if guide.schema is not None:
        return Grammar("json_schema", json.dumps(guide.schema))
    if guide.regex is not None:
        return Grammar("regex", guide.regex)
    if guide.choice:
        return Grammar("choice", "|".join(map(re.escape, guide.choice)))
    if guide.grammar is not None:
        return Grammar("lark", guide.grammar)
    if guide.json:
        return Grammar("json")
    raise InvalidRequest("guide is empty; give it json, schema, regex, choice or grammar")
