"""A chat at a terminal, or of one question. IO: what it is given reads and writes; writes the file of `/save`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from capamesh.cli.chat_session import HELP, ChatSession, command_of, rate_of, summary
from capamesh.cli.printing import write_file
from capamesh.protocol.errors import CapameshError, ConfigError

if TYPE_CHECKING:
    from capamesh.client import Generation, TextStream

PROMPT: Final = "> "
MORE_PROMPT: Final = ". "
QUOTES: Final = '"""'


class ChatTerminal:
    """Reads questions and commands, and writes answers as they come."""

    def __init__(
        self,
        session: ChatSession,
        begin: Callable[[Sequence[dict[str, object]]], TextStream],
        *,
        read: Callable[[str], str],
        write: Callable[[str], None],
        hint: Callable[[str], None],
        name_of: Callable[[str], str] = str,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`begin` asks a model, `read` returns a line typed behind a prompt, `write` shows an answer's words, `hint` what is beside them.

        `name_of` returns what the node with a peer id is called, `clock` the time in seconds.
        """
        self._session = session
        self._begin = begin
        self._read = read
        self._write = write
        self._hint = hint
        self._name_of = name_of
        self._clock = clock

    def run(self) -> None:
        """Go on until the end of the input, or `/bye`."""
        while True:
            try:
                line = self._line()
                if line and not self._take(line):
                    return
            except EOFError:
                return
            except KeyboardInterrupt:
                self._hint("\nCtrl-D or /bye ends the chat")

    def ask(self, text: str) -> tuple[Generation, float, float]:
        """Ask one question and write its answer; return it with the seconds to its first token and to its end.

        Raises `CapameshError`, and `KeyboardInterrupt`; what has come until then is kept in the session.
        """
        began_s = self._clock()
        first_s = 0.0
        stream = self._begin(self._session.asking(text))
        try:
            with stream:
                for piece in stream:
                    if piece.text:
                        first_s = first_s or self._clock() - began_s
                        self._write(piece.text)
        finally:
            self._session.answered(text, stream.answer)
        return stream.answer, first_s, self._clock() - began_s

    def _line(self) -> str:
        """Return what was typed: a line, or what stands between quotes on several."""
        line = self._read(PROMPT).strip()
        if not line.startswith(QUOTES):
            return line
        text = line.removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + self._read(MORE_PROMPT)
        return text.rstrip().removesuffix(QUOTES).strip()

    def _take(self, line: str) -> bool:
        """Do what a line says; return whether the chat goes on."""
        command = command_of(line)
        if command is None:
            self._answer(line)
            return True
        name, rest = command
        match name:
            case "bye" | "exit" | "quit":
                return False
            case "help":
                self._hint(HELP)
            case "clear":
                self._session.clear()
                self._hint("forgotten: the next question begins anew")
            case "system":
                self._session.system = rest
                self._hint("the model is told so from now on" if rest else "it is told nothing")
            case "save":
                self._save(rest)
            case _:
                self._hint(f"there is no command /{name}\n{HELP}")
        return True

    def _answer(self, text: str) -> None:
        try:
            answer, first_s, total_s = self.ask(text)
        except KeyboardInterrupt:
            self._write("\n")
            self._hint("(ended: the model goes on from what there is)")
        except CapameshError as error:
            self._write("\n")
            self._hint(f"error: {error.message}")
            if error.code == "too_large":
                self._hint("/clear begins a new chat")
        else:
            self._write("\n")
            node = self._name_of(answer.nodes[0]) if answer.nodes else ""
            self._hint(f"({summary(answer, first_s, total_s, node)})")

    def _save(self, name: str) -> None:
        if not name:
            self._hint("/save FILE: name the file")
            return
        text = json.dumps(self._session.messages, ensure_ascii=False, indent=1)
        try:
            write_file(Path(name), text.encode("utf-8", "replace").decode() + "\n")
        except ConfigError as error:
            self._hint(f"error: {error.message}")
            return
        self._hint(f"written to {name}")


def told(answer: Generation, first_s: float, total_s: float) -> dict[str, Any]:
    """Return an answer for programs."""
    usage = answer.usage
    return {
        "model": answer.model,
        "text": answer.text,
        "finish": answer.finish,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "first_token_s": first_s,
        "total_s": total_s,
        "tokens_per_s": rate_of(answer, first_s, total_s),
        "nodes": list(answer.nodes),
        "resumes": answer.resumes,
    }
