"""`capamesh chat` and `bench-llm`: what they ask and tell, in a terminal and for programs, and how they measure."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from capamesh.cli.chat_session import ChatSession, command_of, model_for_chat, shown, summary
from capamesh.cli.chat_terminal import ChatTerminal
from capamesh.cli.llm_load.measures import Sample, Spread, level_of
from capamesh.cli.llm_load.report import table_rows
from capamesh.cli.operator_client import AsyncOperatorClient, OperatorClient, read_tasks
from capamesh.client import Choice, Generation, TextPiece, TextStream, TokenUsage
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    TooLarge,
    Unauthenticated,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from .conftest import Cli

TASKS = {"digits": "", "small": "chat", "large": "chat", "words": "text-embedding"}
Given = str | type[BaseException] | CapameshError


def answer_of(text: str, tokens: int = 3, finish: str = "stop") -> Generation:
    choices = (Choice(text, finish),) if text else ()
    return Generation(choices, TokenUsage(9, tokens, 4), "small", nodes=("12D3",))


class Stream:
    """A stream of the pieces of one answer, in place of which an error may come, for callers of either kind."""

    def __init__(self, pieces: Sequence[Given], answer: Generation | None = None) -> None:
        self._left = list(pieces)
        self._answer = answer
        self.is_closed = False
        self.text = ""

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True

    def __iter__(self) -> Iterator[TextPiece]:
        for piece in self._left:
            if not isinstance(piece, str):
                raise piece
            self.text += piece
            yield TextPiece(piece)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_closed = True

    async def __aiter__(self) -> AsyncIterator[TextPiece]:
        for piece in self:
            yield piece

    @property
    def answer(self) -> Generation:
        return self._answer or answer_of(self.text)


class Person:
    """Types lines, interrupts, and sees what is written; each answer is of the pieces that are given."""

    def __init__(self, *lines: Given, answers: Sequence[Sequence[Given]] = ()) -> None:
        self.lines = list(lines)
        self.answers = list(answers)
        self.asked: list[list[dict[str, object]]] = []
        self.streams: list[Stream] = []
        self.seen = ""
        self.hints: list[str] = []
        self.now_s = 0.0

    def read(self, _: str) -> str:
        line = self.lines.pop(0) if self.lines else EOFError
        if not isinstance(line, str):
            raise line
        return line

    def begin(self, messages: Sequence[dict[str, object]]) -> TextStream:
        self.asked.append(list(messages))
        self.streams.append(Stream(self.answers.pop(0)))
        return cast("TextStream", self.streams[-1])

    def write(self, text: str) -> None:
        self.seen += text

    def clock(self) -> float:
        self.now_s += 0.5
        return self.now_s

    def talk(self, system: str = "") -> list[dict[str, object]]:
        """Talk until the end; return the messages that are kept then."""
        session = ChatSession(system)
        ChatTerminal(
            session,
            self.begin,
            read=self.read,
            write=self.write,
            hint=self.hints.append,
            name_of={"12D3": "gpu-1"}.__getitem__,
            clock=self.clock,
        ).run()
        assert all(stream.is_closed for stream in self.streams)
        return session.messages


def said(*texts: str, system: str = "") -> list[dict[str, object]]:
    roles = ("user", "assistant")
    first: list[dict[str, object]] = [{"role": "system", "content": system}] if system else []
    return first + [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


def test_each_question_goes_with_all_before_it() -> None:
    person = Person("Hi", "", "And?", answers=[["Hel", "lo"], ["", "Bye"]])
    kind = "Be kind"
    assert person.talk(kind) == said("Hi", "Hello", "And?", "Bye", system=kind)
    assert person.asked == [said("Hi", system=kind), said("Hi", "Hello", "And?", system=kind)]
    assert person.seen == "Hello\nBye\n"
    assert person.hints[0] == "(3 tokens, 4.0 tokens/s, 0.50 s to the first token, by gpu-1)"


def test_commands_do_what_help_says(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    lines = ["/help", "/system Be brief", "Hi", f"/save {file}", "/clear", "Who?", "/system"]
    person = Person(*lines, "/bye", "never", answers=[["A"], ["B"]])
    assert person.talk() == said("Who?", "B")
    brief = "Be brief"
    assert person.asked == [said("Hi", system=brief), said("Who?", system=brief)]
    assert json.loads(file.read_text("utf-8")) == said("Hi", "A", system=brief)
    assert person.lines == ["never"]
    assert "/clear" in person.hints[0]
    person = Person("/nonesuch", "/save", f"/save {tmp_path}/no/such")
    person.talk()
    assert person.hints[0].startswith("there is no command /nonesuch\n/system")
    assert person.hints[1] == "/save FILE: name the file"
    assert person.hints[2].startswith("error: cannot write ")


def test_texts_of_several_lines_stand_between_quotes() -> None:
    person = Person('"""def f():', "    pass", '"""', '"""one"""', answers=[["A"], ["B"]])
    assert person.talk() == said("def f():\n    pass", "A", "one", "B")


def test_interrupt_ends_the_answer_and_not_the_chat() -> None:
    for pieces, kept in (
        ((KeyboardInterrupt,), []),
        (("Hel", KeyboardInterrupt), said("Hi", "Hel")),
    ):
        person = Person("Hi", KeyboardInterrupt, "And?", answers=[pieces, ["Bye"]])
        person.talk()
        assert person.asked[1] == [*kept, *said("And?")]
        assert person.hints[:2] == [
            "(ended: the model goes on from what there is)",
            "\nCtrl-D or /bye ends the chat",
        ]


def test_error_is_told_and_its_question_forgotten() -> None:
    errors = [[ModelNotFound("gone")], [TooLarge("9 tokens, of 8")], ["A"]]
    person = Person("Hi", "Hi", "Hi", answers=errors)
    person.talk()
    assert person.asked == [said("Hi")] * 3
    clear = "/clear begins a new chat"
    assert person.hints[:3] == ["error: gone", "error: 9 tokens, of 8", clear]


@pytest.mark.parametrize(
    ("asked", "tasks", "kind", "expected"),
    [
        (
            "",
            TASKS,
            InvalidRequest,
            "name the model to chat with; those for chat are: large, small",
        ),
        ("", {"digits": ""}, ModelNotFound, "no model here is for chat: import one"),
        ("none", TASKS, ModelNotFound, "no model 'none' here; those for chat are: large, small"),
        ("digits", TASKS, InvalidRequest, "'digits' is for something else; those for chat are"),
        ("x", {"digits": ""}, ModelNotFound, "no model 'x' here; none is for chat: import one"),
    ],
)
def test_model_is_the_one_for_chat_or_those_are_told(
    asked: str, tasks: dict[str, str], kind: type[CapameshError], expected: str
) -> None:
    assert model_for_chat("", {"small": "chat", "digits": ""}) == "small"
    assert model_for_chat("large", TASKS) == "large"
    with pytest.raises(kind, match=expected):
        model_for_chat(asked, tasks)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Answer each chat with "Hello", and return what is asked."""
    found: list[dict[str, Any]] = []

    def stream(_: object, model: str, messages: object, **options: Any) -> Stream:
        found.append({"model": model, "messages": messages, **options})
        return Stream(["Hel", "lo\x1b"])

    monkeypatch.setattr(OperatorClient, "tasks", lambda _: {"small": "chat", "digits": ""})
    monkeypatch.setattr(OperatorClient, "name_of", lambda _, peer: f"node of {peer}")
    monkeypatch.setattr(OperatorClient, "chat_stream", stream)
    return found


def test_piped_input_is_one_question(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\nthere\n"))
    told = cli("chat --system Kind --max-tokens 5 --temperature 0 --seed 7 --timeout 2s")
    assert told.out == "Hello\x1b\n"  # a file gets what the model says
    assert told.err.startswith("(3 tokens, ")
    assert "by node of 12D3" in told.err
    (question,) = asked
    assert question.pop("messages") == said("Hi\nthere", system="Kind")
    options = {"timeout_s": 2.0, "max_tokens": 5, "temperature": 0.0, "top_p": None, "seed": 7}
    assert question == {"model": "small", **options}


def test_programs_get_one_object(asked: list[dict[str, Any]], cli: Cli) -> None:
    told = cli("chat small --text Hi --json").json
    assert (told["text"], told["finish"], told["nodes"]) == ("Hello\x1b", "stop", ["12D3"])
    assert told["usage"] == {"prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 3}
    assert told["tokens_per_s"] > 0
    assert len(asked) == 1


def test_question_that_cannot_be_asked_is_told(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    for line, given, told in (
        ("chat nonesuch -t Hi", "", "no model 'nonesuch' here; those for chat are: small"),
        ("chat", " \n", "standard input is empty; pipe a question in, or give --text"),
        ("chat", "x" * (2**20 + 1), "standard input has more than 1048576 characters"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        assert told in cli(line, status=1).err
    assert asked == []


def test_texts_of_others_are_read_and_shown_with_care() -> None:
    entries = [{"id": "a", "task": "chat"}, {"id": "b", "task": None}, {"id": "c"}, 7]
    assert read_tasks({"data": entries}) == {"a": "chat", "b": "", "c": "chat"}
    assert read_tasks({}) == {}
    assert shown("a\x1b[2J\tb\n\u202ec\u200d\ud800") == "a\ufffd[2J\tb\n\ufffdc\u200d\ufffd"
    assert [command_of(each) for each in ("/System a  b ", "/etc/x")] == [("system", "a  b"), None]
    cut = summary(answer_of("a", 0, "length"), 0.25, 1.0, "")
    assert cut == "0.25 s to the first token, cut off at the most tokens"


# bench-llm

SAMPLE = Sample(1.0, 3.0, (1.5, 2.0, 2.25), 10, 4)


def test_times_are_as_vllm_and_genai_perf_define_them() -> None:
    assert (SAMPLE.first_token_s, SAMPLE.total_s, SAMPLE.gaps_s) == (0.5, 2.0, [0.5, 0.25])
    assert SAMPLE.token_s == 0.5  # 1.5 s behind the first of four tokens
    assert Sample(0.0, 1.0, (1.0,), 1, 1).token_s is None


def test_level_counts_tokens_of_its_whole_time_and_failures_apart() -> None:
    other = Sample(2.0, 5.0, (3.0, 4.0), 20, 2)
    failed = [Sample(0.0, 1.0, error=text) for text in ("b", "a", "a")]
    level = level_of(2, [SAMPLE, *failed, other])
    assert (level.callers, level.requests, level.error_count) == (2, 2, 3)
    assert list(level.errors.items()) == [("a", 2), ("b", 1)]
    assert (level.duration_s, level.tokens_per_s, level.requests_per_s) == (5.0, 1.2, 0.4)
    assert (level.prompt_tokens, level.completion_tokens) == (15.0, 3.0)
    assert level.first_token_s == Spread(0.75, 0.75, pytest.approx(0.95), pytest.approx(0.995), 1.0)
    assert level.total_s is not None
    assert level.gap_s is not None
    assert (level.total_s.most, level.gap_s.p50, level.gap_s.most) == (3.0, 0.5, 1.0)
    assert json.loads(json.dumps(level.as_json()))["total_s"]["mean"] == 2.5
    level = level_of(1, failed[:1])
    assert (level.first_token_s, level.token_s, level.tokens_per_s) == (None, None, 0.0)
    assert level_of(1, []).requests_per_s == 0.0
    assert table_rows([level])[0][2:5] == ("", "0.00", "-")


Load = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Answer every question, but for each tenth, and return what is asked."""
    found: Load = []

    def stream(_: object, model: str, text: str, **options: Any) -> Stream:
        assert model == "small"
        found.append((text, options))
        if len(found) % 10 == 0:
            raise Overloaded("full", 1.0)
        usage = TokenUsage(20 + len(text.split()), 3)
        return Stream("abc", Generation((Choice("abc", "length"),), usage, "small"))

    async def tasks(_: object) -> dict[str, str]:
        return {"small": "chat", "digits": ""}

    monkeypatch.setattr(AsyncOperatorClient, "tasks", tasks)
    monkeypatch.setattr(AsyncOperatorClient, "chat_stream", stream)
    monkeypatch.setattr(AsyncOperatorClient, "complete_stream", stream)
    return found


LINE = "bench-llm --concurrency 1,3 --input-tokens 60 --output-tokens 3 --requests 2 --json"


def test_each_level_has_its_callers_requests_and_failures(
    load: Load, cli: Cli, tmp_path: Path
) -> None:
    plot = tmp_path / "load.svg"
    told = cli(f"{LINE} --router http://r:1/v1/ --plot", plot, status=3).json
    assert (told["url"], told["model"]) == ("http://r:1", "small")
    assert [(each["callers"], each["requests"], each["errors"]) for each in told["levels"]] == [
        (1, 2, {}),
        (3, 5, {"overloaded: full": 1}),
    ]
    first = told["levels"][0]
    assert (first["prompt_tokens"], first["completion_tokens"]) == (60.0, 3.0)
    # two to gauge, and for each caller one to warm up and two that count
    assert len(load) == len({text for text, _ in load}) == 2 + 3 + 9
    assert [options["max_tokens"] for _, options in load] == [1, 1] + [3] * 12
    assert all(options["ignore_eos"] is True for _, options in load)
    assert plot.read_text("utf-8").startswith("<svg ")


def test_people_get_a_table(load: Load, cli: Cli) -> None:
    line = "bench-llm small --concurrency 1 --warm-up 0 --requests 8 --completions --may-end"
    told = cli(line, status=3)
    header, row = told.lines
    assert header.startswith("CALLERS TOKENS/S ")
    assert row.endswith(" 1")
    assert told.err.endswith("1 times: overloaded: full\n")
    assert all(options["ignore_eos"] is None for _, options in load)


def test_load_that_cannot_be_measured_is_told(load: Load, cli: Cli) -> None:
    for line, status, told in (
        ("--concurrency 0", 2, "give up to 16 numbers from 1 to 1024"),
        ("--plot a.png", 2, "only .svg is written"),
        ("digits", 1, "'digits' is for something else; those for chat are: small"),
    ):
        assert told in cli(f"bench-llm {line}", status=status).err
    assert load == []


def test_server_without_a_list_of_models_is_asked_for_one_that_is_named(
    load: Load, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_: object) -> dict[str, str]:
        raise Unauthenticated("no key")

    monkeypatch.setattr(AsyncOperatorClient, "tasks", refused)
    assert "no key" in cli("bench-llm --requests 1", status=1).err
    cli("bench-llm small --concurrency 1 --requests 1 --json")
    assert len(load) == 4
