"""Sets up the logs of all processes, on standard error: lines for people on a terminal, else one JSON object a line. Sets up structlog.

`CAPAMESH_LOG` (`console` or `json`) says which, and `CAPAMESH_LOG_LEVEL` from which level on; the processes that a service starts
inherit both. All that a process says goes this way: what the standard library and others log, warnings, and exceptions that nobody
caught. No line is long, and no kind of line comes often (see `log_rates`): strangers cause many of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final, TextIO, cast

import structlog
from typing_extensions import override

from capamesh.protocol.log_lines import LineRenderer
from capamesh.protocol.log_rates import LogRates

MOST_CHARS: Final = 1000
"""The most characters of a text in a line (guess: an error's message with an address or two has some 200)."""
MOST_TRACE_CHARS: Final = 6000
"""The most characters of a traceback, whose beginning is left out: the end says what happened (guess: some 60 frames)."""
MOST_ITEMS: Final = 50
"""The most items of a list in a line (guess: the models of a node)."""
FORM_VARIABLE: Final = "CAPAMESH_LOG"
LEVEL_VARIABLE: Final = "CAPAMESH_LOG_LEVEL"
LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_PEERS: Final = ("peer", "address", "logger", "path", "model")
"""The keys that tell whom a line is about, the first that it has."""

_Event = MutableMapping[str, Any]


class _Unfailing:
    """A text file whose full disk or closed pipe loses log lines, and nothing else."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


class _Limited:
    """Leaves out what comes too often. Part of structlog's chain."""

    def __init__(self) -> None:
        self._rates = LogRates()
        self._lock = threading.Lock()

    def __call__(self, _logger: object, _method: str, event: _Event) -> _Event:
        about = next((str(event[key]) for key in _PEERS if event.get(key)), "")
        with self._lock:
            left_out = self._rates.take(str(event.get("event")), about[:100], time.monotonic())
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event


def _shortened(_logger: object, _method: str, event: _Event) -> _Event:
    """Cut what is long. Part of structlog's chain."""
    for key, value in event.items():
        if isinstance(value, str):
            most = MOST_TRACE_CHARS if key == "exception" else MOST_CHARS
            if len(value) > most:
                cut = f"... {len(value) - most} characters ..."
                event[key] = cut + value[-most:] if key == "exception" else value[:most] + cut
        elif isinstance(value, list | tuple):
            items = cast("list[object] | tuple[object, ...]", value)
            if len(items) > MOST_ITEMS:
                event[key] = [*items[:MOST_ITEMS], f"... {len(items) - MOST_ITEMS} more ..."]
    return event


class _Records(logging.Handler):
    """Takes what others log the standard library's way."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a line with wrong arguments is a line, too
            text = str(record.msg)
        structlog.get_logger().log(
            record.levelno,
            "library_message",
            logger=record.name,
            text=text,
            exc_info=record.exc_info,
        )


def configure_logs() -> None:
    """Send all that this process says to standard error; called once, by its `__main__`."""
    level = LEVELS.get(os.environ.get(LEVEL_VARIABLE, ""), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _Limited(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _shortened,
            _renderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(_Records())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _renderer() -> LineRenderer | structlog.processors.JSONRenderer:
    form = os.environ.get(FORM_VARIABLE, "")
    is_terminal = sys.stderr.isatty()
    if form == "console" or (form != "json" and is_terminal):
        return LineRenderer(has_colours=is_terminal and not os.environ.get("NO_COLOR"))
    return structlog.processors.JSONRenderer(default=repr)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    structlog.get_logger().error("uncaught", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        structlog.get_logger().error(
            "uncaught",
            thread=args.thread.name if args.thread is not None else "",
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        )


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        structlog.get_logger().error(
            "uncaught",
            where=repr(args.object),
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        )
