"""Short forms of long texts, for tables: what does not fit is cut at a word's end, and the cut is shown. Pure."""

from __future__ import annotations

import re
from typing import Final

from rich.cells import cell_len, set_cell_size

from capamesh.protocol.plain_text import plain

MOST_REASON_CELLS: Final = 100
"""The most cells of a reason in a table's notes (guess: two lines of 80 beside a name; that a model's new file was refused
takes 53 of them before it says why)."""
CUT: Final = "…"

_MOST_READ_CHARS: Final = 2000
"""The characters of a reason that are looked at: peers may send longer ones."""
_FROM_RUNTIME: Final = re.compile(
    r"onnxruntime|\w::\w|\.(?:cc|cpp|h|cu):[0-9]|\b[0-9]+ : [A-Z_]+ : ", re.IGNORECASE
)
"""Matches in messages of ONNX Runtime, which have places in its source and names of C++ in them."""
_RUNTIME_NOISE: Final = (
    re.compile(r"\[ONNXRuntimeError\] : (?:[0-9]+ : [A-Z_]+ : )?"),
    re.compile(r"\b[0-9]+ : [A-Z_]+ : "),
    re.compile(r"(?<![\w.])/(?:[^\s/]+/)*\S*"),  # paths of files
    re.compile(r"[\w:~<>]*(?:\(anonymous namespace\))?[\w:~<>]*::[^\s()]*(?:\([^()]*\)?)?(?: const)?"),
    re.compile(r"\b[\w.]+\.(?:cc|cpp|h|cu):[0-9]+"),
    re.compile(r"\bfrom +(?=failed\b)"),
)  # fmt: skip
_CLAUSE_END: Final = re.compile(r"[;.] |[;.]\Z| \((?=[a-z])")


def cut_end(text: str, cells: int) -> str:
    """Return `text` in so many cells of a terminal at most, cut at the end of a word where one is near."""
    if cell_len(text) <= cells:
        return text
    if cells < 1:
        return ""
    kept = set_cell_size(text, cells - 1).rstrip()
    at = kept.rfind(" ")
    is_whole = text[len(kept) : len(kept) + 1] == " "
    if not is_whole and at >= len(kept) // 2:
        kept = kept[:at]
    return kept.rstrip(" ,:;") + CUT


def cut_middle(text: str, cells: int) -> str:
    """Return `text` in so many cells at most, without its middle: names often differ at their ends."""
    if cell_len(text) <= cells:
        return text
    if cells < 1:
        return ""
    tail_cells = (cells - 1) // 2
    head = set_cell_size(text, cells - 1 - tail_cells).rstrip()
    tail = ""
    for char in reversed(text):
        if cell_len(char + tail) > tail_cells:
            break
        tail = char + tail
    return head.rstrip(CUT) + CUT + tail.lstrip(CUT)


def short_reason(reason: object, cells: int = MOST_REASON_CELLS) -> str:
    """Return the first clause of a reason, on one line; of ONNX Runtime's messages without paths and C++."""
    lines = str(reason)[:_MOST_READ_CHARS].strip().splitlines()
    text = plain(lines[0]) if lines else ""
    if _FROM_RUNTIME.search(text):
        for noise in _RUNTIME_NOISE:
            text = noise.sub(" ", text)
        text = re.sub(r" (?=[,:;.])", "", " ".join(text.split())).strip(" :,;")
        text = re.sub(r":(?: ?:)+", ":", text)
    text = " ".join(text.split())
    end = _CLAUSE_END.search(text)
    if end is not None and end.start() > 0:
        text = text[: end.start()]
    return cut_end(text, cells)
