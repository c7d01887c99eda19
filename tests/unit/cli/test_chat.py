"""`capamesh chat`: its messages and commands, what is told of answers, and what programs get."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import pytest

from capamesh.cli.__main__ import run
from capamesh.cli.chat_session import ChatSession, command_of, model_for_chat, shown, summary
from capamesh.cli.chat_terminal import ChatTerminal
from capamesh.cli.operator_client import OperatorClient, read_tasks
from capamesh.client import Choice, Generation, TextPiece, TextStream, TokenUsage
from capamesh.protocol.errors import CapameshError, InvalidRequest, ModelNotFound, TooLarge

TASKS = {"digits": "", "small": "chat", "large": "chat", "words": "text-embedding"}
Given = str | type[BaseException] | CapameshError


def answer_of(text: str, tokens: int = 3, finish: str = "stop") -> Generation:
    choices = (Choice(text, finish),) if text else ()
    return Generation(choices, TokenUsage(9, tokens, 4), "small", nodes=("12D3",))


class Stream:
    """A stream of the pieces of one answer, in place of which an error may come."""

    def __init__(self, pieces: Sequence[Given]) -> None:
        self._left = list(pieces)
        self.is_closed = False
        self.text = ""

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_closed = True

    def __iter__(self) -> Iterator[TextPiece]:
        for piece in self._left:
            if not isinstance(piece, str):
                raise piece
            self.text += piece
            yield TextPiece(piece)

    @property
    def answer(self) -> Generation:
        return answer_of(self.text)


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

    def talk(self, session: ChatSession) -> None:
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


def said(*texts: str) -> list[dict[str, object]]:
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


def test_each_question_goes_with_all_before_it() -> None:
    person = Person("Hi", "", "And?", answers=[["Hel", "lo"], ["", "Bye"]])
    session = ChatSession("Be kind")
    person.talk(session)
    system: list[dict[str, object]] = [{"role": "system", "content": "Be kind"}]
    assert person.asked == [system + said("Hi"), system + said("Hi", "Hello", "And?")]
    assert session.messages == system + said("Hi", "Hello", "And?", "Bye")
    assert person.seen == "Hello\nBye\n"
    assert person.hints[0] == "(3 tokens, 4.0 tokens/s, 0.50 s to the first token, by gpu-1)"


def test_commands_do_what_help_says(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    lines = [
        "/help",
        "/system Be brief",
        "Hi",
        f"/save {file}",
        "/clear",
        "Who?",
        "/system",
        "/bye",
    ]
    person = Person(*lines, "never", answers=[["A"], ["B"]])
    session = ChatSession()
    person.talk(session)
    system: list[dict[str, object]] = [{"role": "system", "content": "Be brief"}]
    assert person.asked == [system + said("Hi"), system + said("Who?")]
    assert json.loads(file.read_text("utf-8")) == system + said("Hi", "A")
    assert session.messages == said("Who?", "B")
    assert person.lines == ["never"]
    assert "/clear" in person.hints[0]


def test_commands_that_cannot_be_done_are_told(tmp_path: Path) -> None:
    person = Person("/nonesuch", "/save", f"/save {tmp_path}/no/such")
    person.talk(ChatSession())
    assert person.hints[0].startswith("there is no command /nonesuch\n/system")
    assert person.hints[1] == "/save FILE: name the file"
    assert person.hints[2].startswith("error: cannot write ")


def test_texts_of_several_lines_stand_between_quotes() -> None:
    person = Person('"""def f():', "    pass", '"""', '"""one"""', answers=[["A"], ["B"]])
    session = ChatSession()
    person.talk(session)
    assert session.messages == said("def f():\n    pass", "A", "one", "B")


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [((KeyboardInterrupt,), []), (("Hel", KeyboardInterrupt), said("Hi", "Hel"))],
)
def test_interrupt_ends_the_answer_and_not_the_chat(
    pieces: tuple[Given, ...], kept: list[dict[str, object]]
) -> None:
    person = Person("Hi", KeyboardInterrupt, "And?", answers=[pieces, ["Bye"]])
    person.talk(ChatSession())
    assert person.asked[1] == [*kept, *said("And?")]
    assert person.hints[0] == "(ended: the model goes on from what there is)"
    assert person.hints[1] == "\nCtrl-D or /bye ends the chat"


def test_error_is_told_and_its_question_forgotten() -> None:
    errors = [[ModelNotFound("gone")], [TooLarge("9 tokens, of 8")], ["A"]]
    person = Person("Hi", "Hi", "Hi", answers=errors)
    person.talk(ChatSession())
    assert person.asked == [said("Hi")] * 3
    assert person.hints[:3] == [
        "error: gone",
        "error: 9 tokens, of 8",
        "/clear begins a new chat",
    ]


@pytest.mark.parametrize(
    ("asked", "tasks", "kind", "expected"),
    [
        ("", {"small": "chat", "digits": ""}, None, "small"),
        ("large", TASKS, None, "large"),
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
    asked: str, tasks: dict[str, str], kind: type[CapameshError] | None, expected: str
) -> None:
    if kind is None:
        assert model_for_chat(asked, tasks) == expected
        return
    with pytest.raises(kind, match=expected):
        model_for_chat(asked, tasks)


class Piped(io.StringIO):
    """A standard input that is no terminal."""


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
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", Piped("Hi\nthere\n"))
    line = "chat --system Kind --max-tokens 5 --temperature 0 --seed 7 --timeout 2s"
    assert run(line.split()) == 0
    told = capsys.readouterr()
    assert told.out == "Hello\x1b\n"  # a file gets what the model says
    assert told.err.startswith("(3 tokens, ")
    assert "by node of 12D3" in told.err
    assert asked == [
        {
            "model": "small",
            "messages": [{"role": "system", "content": "Kind"}, *said("Hi\nthere")],
            "timeout_s": 2.0,
            "max_tokens": 5,
            "temperature": 0.0,
            "top_p": None,
            "seed": 7,
        }
    ]


def test_programs_get_one_object(
    asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["chat", "small", "--text", "Hi", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["text"], told["finish"], told["nodes"]) == ("Hello\x1b", "stop", ["12D3"])
    assert told["usage"] == {"prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 3}
    assert told["tokens_per_s"] > 0
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("line", "given", "told"),
    [
        (
            ["chat", "nonesuch", "-t", "Hi"],
            "",
            "no model 'nonesuch' here; those for chat are: small",
        ),
        (["chat"], " \n", "standard input is empty; pipe a question in, or give --text"),
        (["chat"], "x" * (2**20 + 1), "standard input has more than 1048576 characters"),
    ],
)
def test_question_that_cannot_be_asked_is_told(
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
    given: str,
    told: str,
) -> None:
    monkeypatch.setattr("sys.stdin", Piped(given))
    assert run(line) == 1
    assert told in capsys.readouterr().err
    assert asked == []


def test_texts_of_others_are_read_and_shown_with_care() -> None:
    entries = [{"id": "a", "task": "chat"}, {"id": "b", "task": None}, {"id": "c"}, 7]
    assert read_tasks({"data": entries}) == {"a": "chat", "b": "", "c": "chat"}
    assert read_tasks({}) == {}
    assert shown("a\x1b[2J\tb\n\u202ec\u200d\ud800") == "a\ufffd[2J\tb\n\ufffdc\u200d\ufffd"
    assert [command_of(each) for each in ("/System a  b ", "/etc/x")] == [("system", "a  b"), None]
    assert summary(answer_of("a", 0, "length"), 0.25, 1.0, "") == (
        "0.25 s to the first token, cut off at the most tokens"
    )
