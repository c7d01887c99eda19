"""`capamesh chat` at a terminal: a person types, reads answers as they come, interrupts one, and goes on."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from collections.abc import Callable

from chat_nodes import CHAT, asked_of, counting
from fleet_fakes import Ask
from router_http import serving


class Terminal:
    """The other end of a command's terminal."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.seen = ""
        os.set_blocking(end, False)

    async def until(self, *texts: str) -> None:
        """Read until all of these texts were seen behind what was waited for before."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while not all(text in self.seen for text in texts):
                ready = asyncio.Event()
                loop.add_reader(self._end, ready.set)
                await ready.wait()
                loop.remove_reader(self._end)
                try:
                    self.seen += os.read(self._end, 4096).decode()
                except OSError:  # the command has ended
                    assert all(text in self.seen for text in texts), self.seen
        self.seen = self.seen[max(self.seen.rindex(text) + len(text) for text in texts) :]

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())


async def test_person_talks_interrupts_and_goes_on() -> None:
    def reply(ask: Ask) -> None:
        is_long = asked_of(ask)["messages"][-1]["content"] == "Count"
        counting(1_000_000 if is_long else 3)(ask)

    async with serving() as http:
        node = http.node("a", reply, models=(CHAT,))
        end, other = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "capamesh.cli", "chat",
            "--router", f"http://{http.client.host}:{http.client.port}",
            stdin=other, stdout=other, stderr=other, start_new_session=True,
            preexec_fn=_takes_terminal(other),
            env={**os.environ, "TERM": "dumb"},
        )  # fmt: skip
        os.close(other)
        terminal = Terminal(end)
        try:
            await terminal.until("Chatting with chat. /help tells the commands.", "> ")
            terminal.type("Hello\n")
            await terminal.until("1 2 3", "s to the first token, by a)", "> ")
            terminal.type("Count\n")
            await terminal.until("1 2 3 4")
            terminal.type("\x03")
            await terminal.until("(ended: the model goes on from what there is)", "> ")
            await node.cancelled.wait()
            terminal.type("Hello\n")
            await terminal.until("1 2 3", "s to the first token", "> ")
            terminal.type("\x04")
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(end)
        contents = [message["content"] for message in asked_of(node.asks[-1])["messages"]]
        assert contents[:3] == ["Hello", "1 2 3 ", "Count"]
        assert contents[3].startswith("1 2 3 4")
        assert contents[4:] == ["Hello"]


def _takes_terminal(end: int) -> Callable[[], None]:
    """Return what makes this terminal the one whose Ctrl-C interrupts the process."""

    def take() -> None:
        import fcntl  # noqa: PLC0415 - in the child
        import termios  # noqa: PLC0415 - the same

        fcntl.ioctl(end, termios.TIOCSCTTY, 0)

    return take
