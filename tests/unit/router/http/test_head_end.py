from __future__ import annotations

from capamesh.router.http.head_end import HeadEnd


def test_date_is_made_once_a_second_and_says_when_the_connection_ends() -> None:
    now_s = 5.0
    dates = iter(["first", "second"])
    end = HeadEnd(lambda: now_s, lambda: next(dates))
    assert end.line(is_last=False) == b"Date: first\r\n\r\n"
    now_s = 5.9
    assert end.line(is_last=True) == b"Date: first\r\nConnection: close\r\n\r\n"
    now_s = 6.0
    assert end.line(is_last=False) == b"Date: second\r\n\r\n"
