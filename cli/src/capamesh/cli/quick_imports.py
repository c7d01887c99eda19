"""Reads in what a service needs, and only that, so that it serves soon. Changes what is imported, and the collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

UNUSED = "rich"
"""Structlog reads it in for colourful consoles, where it is installed; a service writes JSON."""


@contextmanager
def quick_imports() -> Generator[None]:
    """Import within it without `UNUSED` and without passes of the collector over what stays for ever.

    Of 0.84 s that a router took to be read in it saves 0.15 s (measured, processor time on a busy machine).
    """
    is_hidden = UNUSED not in sys.modules
    was_enabled = gc.isenabled()
    gc.disable()
    if is_hidden:
        cast("dict[str, object]", sys.modules)[UNUSED] = None
    try:
        yield
    finally:
        if is_hidden:
            del sys.modules[UNUSED]
        if was_enabled:
            gc.enable()
