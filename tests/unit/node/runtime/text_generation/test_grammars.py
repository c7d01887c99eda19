"""Grammars of answers: what a model that knows nothing says under one, and where it must call a tool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import jsonschema
import pytest
import tiny_llama
from benchmark_modules import load
from generation_fakes import Desk
from tokenizers import AddedToken, Tokenizer

from capamesh.node.generation import GenerationRequest, SamplingParameters
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots
from capamesh.node.runtime.text_generation import grammars
from capamesh.node.runtime.text_generation.asked import Asked, Guide
from capamesh.node.runtime.text_generation.grammars import Grammar, GrammarConstraint, Grammars
from capamesh.node.runtime.text_generation.text_model import grammar_of
from capamesh.node.runtime.text_generation.tokens import GenerationTokenizer
from capamesh.node.runtime.text_generation.tool_calls import ModelTools
from capamesh.node.runtime.text_generation.tool_formats import FORMATS
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, RunFailed, TooLarge

RAW = tiny_llama.tokenizer().to_str().encode()
END = (1, 3)
BY_CHANCE = SamplingParameters(seed=1)


@pytest.fixture(scope="module")
def made() -> Grammars:
    return Grammars(RAW, tiny_llama.VOCABULARY, END)


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> DecoderSlots:
    folder = tiny_llama.write_decoder_folder(tmp_path_factory.mktemp("decoder") / "m", "q8")
    return DecoderSlots(folder, count=4, length=500, threads=1)


def answers(
    slots: DecoderSlots,
    made: Grammars,
    grammar: Grammar,
    choices: int,
    sampling: SamplingParameters = BY_CHANCE,
) -> list[str]:
    """Return what the tiny model, which knows nothing, says under `grammar`."""
    desk = Desk(slots)
    tokenizer = GenerationTokenizer(RAW)
    stops = frozenset(END)
    request = GenerationRequest((5, 6, 7), 390, sampling, stop_tokens=stops, choices=choices)
    sequences = desk.engine.submit(request, 0.0, tokenizer.new_text, made.compile(grammar, choices))
    desk.told = {each: [] for each in sequences}
    desk.run()
    assert [desk.finish(each) for each in sequences] == ["stop"] * choices
    return [desk.text(each) for each in sequences]


def misfits(slots: DecoderSlots, made: Grammars, seeds: Iterable[int]) -> list[tuple[int, str]]:
    """Return the answers that do not fit the schemas that are made up of `seeds`, which the library jsonschema is asked."""
    schema_of = load("made_up_schemas").schema_of
    texts = [tiny_llama.tokenizer().decode([token]) for token in range(tiny_llama.VOCABULARY)]
    blank = {token: -100.0 for token, text in enumerate(texts) if text and not text.strip()}
    found: list[tuple[int, str]] = []
    for seed in seeds:
        schema = schema_of(seed)
        sampling = SamplingParameters(seed=seed, logit_bias=blank)
        (text,) = answers(slots, made, Grammar("json_schema", json.dumps(schema)), 1, sampling)
        if not jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)):
            found.append((seed, text))
    return found


def test_answers_fit_schemas_that_are_made_up(slots: DecoderSlots, made: Grammars) -> None:
    assert misfits(slots, made, range(20)) == []


@pytest.mark.slow
def test_answers_fit_two_hundred_schemas(slots: DecoderSlots, made: Grammars) -> None:
    assert misfits(slots, made, range(20, 220)) == []


def test_answer_is_what_a_regular_expression_says(slots: DecoderSlots, made: Grammars) -> None:
    for text in answers(slots, made, Grammar("regex", r"(yes|no), [0-9]{3}"), 3):
        assert re.fullmatch(r"(yes|no), [0-9]{3}", text)


def test_answer_is_one_of_the_choices(slots: DecoderSlots, made: Grammars) -> None:
    odd = "".join(map(chr, range(32, 127)))
    choices = (odd, "ü€ (a|b)*\n\t", "a", "a-b")
    for text in answers(slots, made, grammar_of(Guide(choice=choices)), 4):
        assert text in choices


@pytest.mark.parametrize("rules", ['start: A\nA: "yes" | "no"', 'root ::= "yes" | "no"'])
def test_rules_are_lark_or_gbnf(slots: DecoderSlots, made: Grammars, rules: str) -> None:
    assert set(answers(slots, made, Grammar("lark", rules), 3)) <= {"yes", "no"}


def test_choices_go_their_own_ways(made: Grammars) -> None:
    new = made.compile(Grammar("regex", "(yes|no)"), 3)
    one, other = new(), new()
    (y,) = tiny_llama.tokenizer().encode("y").ids
    one.accept(y)
    assert one.mask().tolist() != other.mask().tolist()
    assert other.mask().tolist() == new().mask().tolist()
    with pytest.raises(RunFailed, match=f"token {y} does not follow"):
        one.accept(y)


def test_grammar_is_compiled_once_a_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Grammars(RAW, tiny_llama.VOCABULARY, END)
    compiled: list[str] = []
    compile_one = made._compiled

    monkeypatch.setattr(
        made, "_compiled", lambda grammar: (compiled.append(grammar.text), compile_one(grammar))[1]
    )
    monkeypatch.setattr(grammars, "MOST_KEPT", 3)
    monkeypatch.setattr(grammars, "MOST_KEPT_CHARACTERS", 60)

    def asked(text: str, tenant: str = "") -> GrammarConstraint:
        return made.compile(Grammar("regex", text), tenant=tenant)()

    first = asked("a|b")
    (a,) = tiny_llama.tokenizer().encode("a").ids
    first.accept(a)
    assert asked("a|b").mask()[a]  # where it begins, whatever others did
    assert compiled == ["a|b"]
    asked("a|b", "other")
    asked("c")
    assert compiled == ["a|b", "a|b", "c"]
    asked("a|b")
    asked("d")  # the other tenant's goes
    asked("a|b")
    asked("a|b", "other")
    assert compiled == ["a|b", "a|b", "c", "d", "a|b"]
    asked("e" * 58)
    assert [each.characters for each in made._kept.values()] == [58]
    assert made._kept_characters == 58


DOUBLED = "\n".join(
    ["start: A0", *(f"A{at}: A{at + 1} A{at + 1}" for at in range(13)), "A13: /.*/"]
)


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (Grammar("json_schema", '{"type": "nonsense"}'), "Invalid type: nonsense"),
        (Grammar("json_schema", '{"$ref": "http://127.0.0.1/x"}'), "not present"),
        (Grammar("json_schema", '{"items":' * 300 + "{}" + "}" * 300), "recursion limit"),
        (Grammar("json_schema", '{"items":' * 10_000), "cannot be used"),
        (Grammar("lark", "start: %json {}"), "%json, which is not taken"),
        (Grammar("lark", "nonsense"), "neither Lark, for it has no start:, nor GBNF"),
        (Grammar("lark", "root ::= " + "(" * 3000 + '"a"' + ")" * 3000), "recursion"),
        (Grammar("lark", "root ::= b"), "Rule 'b' not found"),
        (Grammar("regex", "(" * 4000), "invalid regex"),
        (Grammar("regex", "(?=a)b"), "look-around"),
        (Grammar("lark", DOUBLED), "too big"),
        (Grammar("lark", "start: A\nA: /.*0.*/ & /.*1.*/"), "has &, which is not taken"),
        (Grammar("lark", "start: A\nA: ~/.*0.*/"), "has ~, which is not taken"),
        (Grammar("lark", 'start: A\nA: "\\"" & <"> & /[/]"/ & "x"'), "has &, which"),
        (Grammar("lark", 'start: A // "\nA: /a/ & /b/ // "'), "has &, which"),
    ],
)
def test_grammar_that_is_none_is_refused(made: Grammars, grammar: Grammar, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        made.compile(grammar)


def test_grammar_is_bounded(made: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "MAX_GRAMMAR_CHARACTERS", 5)
    for grammar in (Grammar("choice", "abcdef"), Grammar("regex", "a" * 8193)):
        with pytest.raises(TooLarge, match=rf"{len(grammar.text)} characters"):
            made.compile(grammar)


def test_pattern_that_is_too_much_work_ends_the_answer_as_the_callers_fault(made: Grammars) -> None:
    one = made.compile(Grammar("regex", "(a{1000}){1000}"))()
    (a,) = tiny_llama.tokenizer().encode("a").ids
    assert one.mask()[a]
    with pytest.raises(InvalidRequest, match="too complex"):
        one.accept(a)


def joined(count: int) -> Grammar:
    """Return a schema of a text that has to match so many patterns."""
    schema = {"allOf": [{"type": "string", "pattern": f".*{each}.*"} for each in range(count)]}
    return Grammar("json_schema", json.dumps(schema))


def nested(count: int) -> Grammar:
    schema: dict[str, Any] = {}
    for each in range(count):
        schema = {"type": "string", "pattern": f".*{each}.*", "anyOf": [schema]}
    return Grammar("json_schema", json.dumps(schema))


def test_patterns_that_no_text_has_to_match_together_may_be_many(made: Grammars) -> None:
    names = {f"p{each}": {"type": "string", "pattern": f"^{each}$"} for each in range(50)}
    optional = {"anyOf": [{"type": "string", "pattern": "^a$"}, {"type": "null"}], "title": "A"}
    schema = {"type": "object", "properties": {**names, "a": optional}}
    for grammar in (Grammar("json_schema", json.dumps(schema)), joined(3)):
        assert made.compile(grammar)().mask().any()


def test_operators_in_texts_of_rules_are_texts(made: Grammars) -> None:
    for rules in (
        'start: "&&" | "~" | /[&~]/ | "\\"&" | A~2  // it is',
        'root ::= "&&" | "~" | [&~]',
    ):
        assert made.compile(Grammar("lark", rules + '\nA: "a"' * ("A~2" in rules)))().mask().any()


def chain(length: int, *, is_deep: bool = False) -> Grammar:
    """Return a schema whose references follow one on the other."""

    links = [{"$ref": f"#/$defs/d{number + 1}"} for number in range(length)]
    if is_deep:
        links = [{"type": "object", "properties": {"a": it}, "required": ["a"]} for it in links]
    defs = {f"d{number}": link for number, link in enumerate(links)}
    schema = {"$defs": {**defs, f"d{length}": {"type": "integer"}}, "$ref": "#/$defs/d0"}
    return Grammar("json_schema", json.dumps(schema))


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (chain(5000), "more than 2048 objects"),
        (chain(1000), "1001 references, which could come to a depth of 3006; it may be 500"),
        (chain(200, is_deep=True), "201 references, which could come to a depth of 1010"),
        (Grammar("json_schema", json.dumps({"enum": [[]] * 2050})), "more than 2048 objects"),
        (joined(9), "9 patterns and formats"),
        (nested(9), "9 patterns and formats"),
        (Grammar("json_schema", '{"multipleOf": 99991}'), "it may be 10000"),
        (Grammar("lark", "start: a\n" + "\n" * 501), "502 lines; it may have 500"),
    ],
)
def test_grammar_that_is_too_deep_is_refused(made: Grammars, grammar: Grammar, says: str) -> None:
    with pytest.raises(TooLarge, match=says):
        made.compile(grammar)


def test_deepest_grammars_that_are_taken_can_be_compiled(made: Grammars) -> None:
    rules = "start: r0\n" + "\n".join(f'r{at}: "x" r{at + 1}' for at in range(498)) + '\nr498: "y"'
    for grammar in (chain(164), chain(98, is_deep=True), Grammar("lark", rules)):
        assert made.compile(grammar)().mask().any()


@pytest.mark.parametrize("raw", [b"gpt2", b"\xff", b"{}"])
def test_tokenizer_that_is_none_is_the_models_fault(raw: bytes) -> None:
    with pytest.raises(ModelInvalid, match="grammars cannot be had"):
        Grammars(raw, 10, END)


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
PLAIN = SamplingParameters(seed=1)


def tokenizer_file(*, has_marks: bool) -> bytes:
    """Return the tiny model's tokenizer, with the marks of calls as tokens of their own or not."""
    made = Tokenizer.from_str(tiny_llama.tokenizer().to_str())
    if has_marks:
        made.add_special_tokens([AddedToken(each) for each in ("[TOOL_CALLS]", "<|python_tag|>")])
        made.add_tokens([AddedToken(each) for each in ("<tool_call>", "</tool_call>")])
    return made.to_str().encode()


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
def test_answer_that_must_call_does_so(slots: DecoderSlots, form: str, *, has_marks: bool) -> None:
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
