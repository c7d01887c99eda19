from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.generation.stops import StopStrings


@given(
    pieces=st.lists(st.text("ab\n", max_size=4), max_size=20),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_text_goes_out_up_to_the_first_stop_however_it_comes(
    pieces: list[str], stops: list[str]
) -> None:
    mine = StopStrings(stops)
    out, is_stopped = "", False
    for piece in pieces:
        text, is_stopped = mine.push(piece)
        out += text
        if is_stopped:
            break
    else:
        out += mine.flush()
    whole = "".join(pieces)
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert is_stopped == bool(ends)
    if not ends:
        assert out == whole
    else:  # of stops that begin one another, the one that is complete first counts
        assert whole.startswith(out)
        assert not any(stop in out for stop in stops)
        assert any(whole.startswith(stop, len(out)) for stop in stops)


def test_text_that_cannot_become_a_stop_is_not_held_back() -> None:
    stops = StopStrings(["</end>"])
    assert stops.push("a <") == ("a ", False)
    assert stops.push("/b") == ("</b", False)
    assert stops.push("</e") == ("", False)
    assert stops.push("nd> more") == ("", True)
