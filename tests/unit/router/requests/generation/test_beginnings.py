from __future__ import annotations

from typing import Any

import pytest

from capamesh.router.requests.generation.beginnings import BLOCK_BYTES, MOST_BLOCKS, beginnings_of
from capamesh.router.requests.invalid_parameter import InvalidParameter


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return with how many equal names both begin, and see that none is equal behind that."""
    count = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    assert not set(one[count:]) & set(other[count:])
    return count


def turns(count: int) -> dict[str, Any]:
    """Return a chat of so many messages of 100 bytes and more."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[at % 2], "content": f"{at} " * 50} for at in range(count)]}


def test_prompts_are_alike_as_far_as_their_bytes_are() -> None:
    text = "x" * (10 * BLOCK_BYTES)
    names = beginnings_of({"prompt": text}, "")
    assert len(names) == 10
    other = beginnings_of({"prompt": text[: 4 * BLOCK_BYTES + 5] + "y" + text}, "")
    assert alike(names, other) == 4
    assert beginnings_of({"prompt": text}, "") == names


def test_tokens_tools_and_texts_are_named() -> None:
    ids = list(range(100))
    assert alike(beginnings_of({"prompt": ids}, ""), beginnings_of({"prompt": [*ids, 1]}, "")) == 6
    chat = turns(2)
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert alike(beginnings_of({**chat, "tools": tools}, ""), beginnings_of(chat, "")) == 0
    assert len(beginnings_of({"prompt": "a"}, "")) == 1


def test_names_are_bounded() -> None:
    long = {"prompt": "x" * 10**6}
    assert len(beginnings_of(long, "")) == MOST_BLOCKS
    assert beginnings_of(long, "") == beginnings_of({"prompt": "x" * (10**6 + 1)}, "")
    assert beginnings_of({"prompt": ""}, "") == ()


def test_prompt_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidParameter):
        beginnings_of({"messages": [{"role": "user", "content": "\ud800"}]}, "")
