"""Drives a Chromium without a window, by its own protocol. IO: a process, a WebSocket.

Debian has it as the package `chromium`. Where there is none, `chromium_path` returns None.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

NAMES: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
LOOK_S: Final = 0.05
"""Seconds between two looks whether something has become true in a page."""
WAIT_S: Final = 60.0
"""The longest time that a page may take to become what is expected of it."""


def chromium_path() -> str | None:
    """Return the path of a Chromium on this machine; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One tab of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())
        self.complaints: list[str] = []
        """The errors that the page's scripts or the browser have written to the console."""

    async def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send one command of the protocol, and return its result."""
        number = next(self._numbers)
        replied = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(WAIT_S):
            reply = await replied
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return dict(reply["result"])

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.ask("Page.navigate", url=url)

    async def run(self, script: str) -> Any:  # noqa: ANN401 - a value of JavaScript
        """Return the value of an expression in the page, awaited if it is a promise."""
        result = await self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:2000])
        return result["result"].get("value")

    async def wait_for(self, script: str) -> Any:  # noqa: ANN401 - a value of JavaScript
        """Wait until an expression in the page is true, and return it."""
        value = None
        try:
            async with asyncio.timeout(WAIT_S):
                while not (value := await self.run(script)):  # noqa: ASYNC110 - a page tells nobody
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            text = await self.run("document.body.innerText")
            raise AssertionError(
                f"{script} is still {value!r} in:\n{text}\n{self.complaints}"
            ) from None
        return value

    async def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Give the page this many pixels."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=is_phone,
        )

    async def prefer(self, theme: str) -> None:
        """Prefer "dark" or "light" as a system does."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    async def press(self, key: str, code: int) -> None:
        """Press a key by its name and its number."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    async def type(self, text: str) -> None:
        """Type characters, each as a key of its own."""
        for character in text:
            for kind in ("keyDown", "keyUp"):
                await self.ask("Input.dispatchKeyEvent", type=kind, key=character, text=character)

    async def picture(self) -> bytes:
        """Return what is in sight as PNG."""
        return base64.b64decode((await self.ask("Page.captureScreenshot", format="png"))["data"])

    async def close(self) -> None:
        """Close the tab; nothing happens if it is closed."""
        if not self._socket.closed:
            await self._socket.send_json({"id": 0, "method": "Page.close"})
            self._reading.cancel()
            await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                waiting = self._waiting.pop(told["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(told)
            elif told["method"] == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["params"]["exceptionDetails"])[:1000])
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.complaints.append(json.dumps(told["params"]["entry"])[:1000])


@asynccontextmanager
async def browser(path: str, *options: str) -> AsyncIterator[Callable[[], Any]]:
    """Run a Chromium with more options, and yield what opens a new tab in it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            path,
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--hide-scrollbars",
            *options,
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # what is installed may be a script that starts the browser
        )
        try:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                tabs: list[Tab] = []

                async def new_tab() -> Tab:
                    async with session.put("/json/new?about:blank") as reply:
                        target = await reply.json(content_type=None)
                    socket = await session.ws_connect(
                        target["webSocketDebuggerUrl"], max_msg_size=0
                    )
                    tabs.append(tab := Tab(socket))
                    for domain in ("Page", "Runtime", "Log"):
                        await tab.ask(f"{domain}.enable")
                    return tab

                yield new_tab
                for tab in tabs:
                    await tab.close()
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            await process.wait()


async def _port(file: Path) -> int:
    """Return the port that a browser has written down once it listens."""
    async with asyncio.timeout(WAIT_S):
        while not (text := _read(file)):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(LOOK_S)
    return int(text.split()[0])


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
