"""Made-up bytes, cut anywhere: a front sees the requests that aiohttp sees, or refuses. `tests/support/http1_fuzz.py` goes on for longer."""

from __future__ import annotations

import pytest
from http1_fuzz import try_cases

CASES = 250


@pytest.mark.parametrize("first", range(0, 4 * CASES, CASES))
async def test_front_sees_no_other_requests_than_aiohttp(first: int) -> None:
    done = await try_cases(first, count=CASES)
    assert done["cases"] == CASES
    assert done["requests"] > CASES // 4
    assert done["refused"] > CASES // 10
