"""How all processes log: one JSON object a line on standard error, with a time and a level. Sets up structlog."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog


class _Unfailing:
    """A text file whose full disk or closed pipe loses log lines, and nothing else."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.lost_lines = 0

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except (OSError, ValueError):
            self.lost_lines += 1
            return 0

    def flush(self) -> None:
        try:
            self._file.flush()
        except (OSError, ValueError):
            self.lost_lines += 1


def configure_logs(level: int = logging.INFO) -> None:
    """Send structured events to standard error; called once, by a process's `__main__`."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )
