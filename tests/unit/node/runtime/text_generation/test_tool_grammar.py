"""What a model that knows nothing says where its answer must call a tool, in each form of calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_llama
from generation_fakes import Desk
from tokenizers import AddedToken, Tokenizer

from capamesh.node.generation import GenerationRequest, SamplingParameters
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots
from capamesh.node.runtime.text_generation.asked import Asked
from capamesh.node.runtime.text_generation.grammars import Grammars
from capamesh.node.runtime.text_generation.tokens import GenerationTokenizer
from capamesh.node.runtime.text_generation.tool_calls import ModelTools
from capamesh.node.runtime.text_generation.tool_formats import FORMATS
from capamesh.protocol.errors import InvalidRequest

TEMPLATES = {
    "hermes": "{{ tools }}<tool_call></tool_call>",
    "llama3_json": '{{ tools }}{"name": "parameters"}',
    "mistral": "[TOOL_CALLS]",
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = (
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "time"}},
)
END = (1, 3)
PLAIN = SamplingParameters(seed=1)


def tokenizer_file(*, has_marks: bool) -> bytes:
    """Return the tiny model's tokenizer, with the marks of calls as tokens of their own or not."""
    made = Tokenizer.from_str(tiny_llama.tokenizer().to_str())
    if has_marks:
        made.add_special_tokens([AddedToken(each) for each in ("[TOOL_CALLS]", "<|python_tag|>")])
        made.add_tokens([AddedToken(each) for each in ("<tool_call>", "</tool_call>")])
    return made.to_str().encode()


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> DecoderSlots:
    folder = tiny_llama.write_decoder_folder(tmp_path_factory.mktemp("decoder") / "m", "q8")
    return DecoderSlots(folder, count=4, length=500, threads=1)


class Model:
    """A form of calls with the tokenizer of one model."""

    def __init__(self, form: str, *, has_marks: bool) -> None:
        raw = tokenizer_file(has_marks=has_marks)
        self.tokenizer = GenerationTokenizer(raw)
        self.grammars = Grammars(raw, tiny_llama.VOCABULARY, END)
        self.tools = ModelTools(TEMPLATES[form], self.tokenizer, self.grammars)

    def compiled(self, asked: Asked, schema: dict[str, Any] | None = None) -> Any:
        """Return the tools that are asked for, and what makes their constraints."""
        tools = self.tools.read(asked)
        grammar = self.tools.grammar(tools, schema)
        return tools, self.grammars.compile(grammar)

    def answer(
        self,
        slots: DecoderSlots,
        schema: dict[str, Any] | None = None,
        sampling: SamplingParameters = PLAIN,
        **fields: Any,
    ) -> tuple[str, list[tuple[str, Any]]]:
        """Return the text and the calls of an answer."""
        tools, new = self.compiled(Asked(messages=({},), tools=TOOLS, **fields), schema)
        request = GenerationRequest((5, 6, 7), 480, sampling, stop_tokens=frozenset(END))
        desk = Desk(slots)
        (sequence,) = desk.engine.submit(request, 0.0, self.tools.new_text, new)
        desk.told = {sequence: []}
        desk.run()
        assert desk.finish(sequence) == "stop"
        reader = self.tools.reader(tools, request)
        text, pieces = reader.push(desk.text(sequence))
        calls: list[list[str]] = []
        for each in pieces:
            if each.id:
                calls.append([each.name, ""])
            calls[-1][1] += each.arguments
        found = [(name, json.loads(arguments)) for name, arguments in calls]
        return text + reader.flush(), found


def drawn(seed: int) -> SamplingParameters:
    """Return how tokens are drawn by chance, with little heed to what the model prefers."""
    return SamplingParameters(seed=seed, temperature=8.0)


def check(calls: list[tuple[str, Any]]) -> None:
    for name, arguments in calls:
        if name == "weather":
            assert arguments.keys() == {"city", "days"}
            assert arguments["city"] in ("Rome", "Oslo")
            assert arguments["days"] <= 9
        else:
            assert (name, arguments) == ("time", {})


@pytest.mark.parametrize("has_marks", [True, False])
@pytest.mark.parametrize("form", [each.name for each in FORMATS])
def test_answer_that_must_call_does_so_in_the_models_form(
    slots: DecoderSlots, form: str, *, has_marks: bool
) -> None:
    model = Model(form, has_marks=has_marks)
    for seed in range(3):
        asked = {"tool_choice": "required", "parallel_tool_calls": False}
        text, calls = model.answer(slots, sampling=drawn(seed), **asked)
        assert (text, len(calls)) == ("", 1)
        check(calls)
    named = {"type": "function", "function": {"name": "time"}}
    assert model.answer(slots, tool_choice=named) == ("", [("time", {})])


@pytest.mark.parametrize("form", [each.name for each in FORMATS])
def test_answer_may_have_several_calls(slots: DecoderSlots, form: str) -> None:
    model = Model(form, has_marks=True)
    counts = set()
    # Eight answers in a row may well have as many calls each, which are others where a processor rounds otherwise.
    for seed in range(100):
        text, calls = model.answer(slots, sampling=drawn(seed), tool_choice="required")
        assert text == ""
        check(calls)
        counts.add(len(calls))
        if seed >= 7 and len(counts) > 1:
            break
    assert len(counts) > 1


@pytest.mark.parametrize("has_marks", [True, False])
def test_text_that_begins_as_a_call_goes_on_as_one(*, has_marks: bool) -> None:
    model = Model("hermes", has_marks=has_marks)

    def after(text: str) -> tuple[set[str], bool]:
        """Return the first letters that may stand behind `text`, and whether the answer may end there."""
        _, new = model.compiled(Asked(messages=({},), tools=TOOLS))
        constraint = new()
        for token in model.tokenizer.encode(text, adds_special=False):
            constraint.accept(token)
        mask = constraint.mask()
        allowed = [int(at) for at in mask.nonzero()[0]]
        letters = {model.tokenizer.decode([each])[:1] for each in allowed if each not in END}
        return letters - {""}, any(mask[END[0] : END[0] + 1])

    free, may_end = after("Some text: {")
    assert may_end
    assert len(free) > 50
    assert after("Some text <tool_call>") == ({"\n"}, False)
    assert after('<tool_call>\n{"name": "') == ({"w", "t"}, False)
    letters, may_end = after('<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>')
    assert may_end
    assert "a" not in letters
    assert not after('<tool_call>\n{"name": "weather", "arguments": {"city": "')[0] - {"R", "O"}


@pytest.mark.parametrize("form", [each.name for each in FORMATS])
def test_answer_with_a_schema_is_a_call_or_fits_it(slots: DecoderSlots, form: str) -> None:
    model = Model(form, has_marks=True)
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    kinds = set()
    for seed in range(12):
        text, calls = model.answer(slots, schema, drawn(seed))
        check(calls)
        if not calls:
            assert json.loads(text).keys() == {"yes"}
        kinds.add(bool(calls))
    assert False in kinds


def test_tool_whose_parameters_are_no_schema_is_told() -> None:
    model = Model("hermes", has_marks=True)
    bad = {"type": "function", "function": {"name": "f", "parameters": {"properties": 5}}}
    with pytest.raises(InvalidRequest, match="the tools of the answer cannot be used"):
        model.compiled(Asked(messages=({},), tools=(bad,)))
