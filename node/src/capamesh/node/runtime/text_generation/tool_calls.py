"""The calls of tools that one model can make: how they are asked for, bound and read. Pure but for libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capamesh.node.generation import GenerationRequest, TokenText
from capamesh.node.generation.stops import StopStrings
from capamesh.node.runtime.text_generation.asked import Asked
from capamesh.node.runtime.text_generation.grammar_bounds import check_schemas
from capamesh.node.runtime.text_generation.grammars import Grammar, Grammars
from capamesh.node.runtime.text_generation.tokens import GenerationTokenizer
from capamesh.node.runtime.text_generation.tool_asked import AskedTools, read_tools
from capamesh.node.runtime.text_generation.tool_formats import FORMATS, format_of
from capamesh.node.runtime.text_generation.tool_grammar import tool_grammar
from capamesh.node.runtime.text_generation.tool_reader import ToolCallReader
from capamesh.protocol.errors import InvalidRequest


class ModelTools:
    """The form of one model's calls, which its chat template teaches. Safe to use from several threads at once."""

    def __init__(
        self, template: str, tokenizer: GenerationTokenizer, grammars: Grammars | None
    ) -> None:
        """`grammars` are None where answers cannot follow any."""
        self._tokenizer = tokenizer
        self.form = format_of(template)
        """The form; None: none that is known, so that calls stay in the answer's text."""
        self._tokens: dict[str, int] = {}
        """The marks that are tokens of their own."""
        self._shown: dict[int, str] = {}
        """The special tokens among them, which answers do not show otherwise."""
        for mark in self.form.marks if self.form is not None else ():
            token = tokenizer.token_of(mark)
            if token is None:
                continue
            if grammars is not None and grammars.is_no_text(token):
                self._tokens[mark] = token
            if not tokenizer.decode([token]):
                self._shown[token] = mark

    def read(self, asked: Asked) -> AskedTools | None:
        """Return the tools that the answer may call, if calls are read. Raises `InvalidRequest`: they are not as they must be."""
        if asked.messages is None:
            return None
        tools = read_tools(asked.tools, asked.tool_choice, is_parallel=asked.parallel_tool_calls)
        if tools is None or self.form is not None:
            return tools
        if tools.must_call:
            known = ", ".join(form.name for form in FORMATS)
            raise InvalidRequest(
                f"tool_choice asks for a call, and the model's chat template has no form of calls that is known here ({known}):"
                " send auto, and read the answer's text"
            )
        return None

    def grammar(self, tools: AskedTools, schema: Mapping[str, Any] | bool | None) -> Grammar | None:
        """Return what the answer follows, with the `schema` of one without calls; None: it is free. Raises `TooLarge`."""
        if self.form is None:
            return None
        check_schemas((*tools.schemas.values(), schema))
        text = tool_grammar(tools, self.form, self._tokens, schema)
        return Grammar("tools", text) if text else None

    def new_text(self) -> TokenText:
        """Return the text of an answer that begins, with the marks of calls."""
        return self._tokenizer.new_text(self._shown)

    def reader(self, tools: AskedTools, request: GenerationRequest) -> ToolCallReader | None:
        """Return the reader of calls in the answer to `request`, behind what it resumes; None: calls are not read."""
        if self.form is None:
            return None
        found = ToolCallReader(self.form, tools.callable_names)
        text, stops = self.new_text(), StopStrings(request.stop_strings)
        for token in request.resumed:
            found.push(stops.push(text.push(token))[0])
        return found
