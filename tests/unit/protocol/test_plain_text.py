"""What a peer's text is rid of, and that it is wherever a peer's text enters or is shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from link_wire import feed, greeted

from capamesh.cli import __main__ as command
from capamesh.cli import printing
from capamesh.protocol.adverts import Sequence, router_from_body
from capamesh.protocol.errors import AdvertRejected, InvalidRequest, from_wire
from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.events import GoawayReceived
from capamesh.protocol.links.frames import FrameKind, encode_frame
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.msgpack_codec import pack
from capamesh.protocol.plain_text import is_plain, plain, plain_lines
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.protocol.tensors.checks import checked

EVIL = "a\x1b]0;owned\x07\x1b[2J\u202egpj\u2066x\u2069\u2028b\u2029c\u200bd\x9b1me\x7f"
TAKEN_OUT = "a\ufffd]0;owned\ufffd\ufffd[2J\ufffdgpj\ufffdx\ufffd b c\ufffdd\ufffd1me\ufffd"


def test_characters_that_drive_a_terminal_or_turn_a_line_around_are_taken_out() -> None:
    assert plain(EVIL) == TAKEN_OUT
    assert plain("two\r\nlines\tand\x85more") == "two  lines and more"
    assert plain_lines("two\nlines\r\x1b") == "two\nlines \ufffd"
    text = "Modell „größer“ 模型 نموذج ✓ é 👍"
    assert plain(text) == plain_lines(text) == text
    assert is_plain(text)


@given(st.text(st.characters(), max_size=40))
def test_plain_text_has_no_control_or_format_character_of_the_kinds_and_is_a_fixed_point(
    text: str,
) -> None:
    cleaned = plain(text)
    assert len(cleaned) == len(text)
    assert plain(cleaned) == cleaned
    assert is_plain(cleaned)
    kinds = {unicodedata.category(one) for one in cleaned}
    assert not kinds & {"Cc", "Zl", "Zp", "Cs"}
    assert not {unicodedata.bidirectional(one) for one in cleaned} & {
        "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
    }  # fmt: skip


def test_links_introduction_and_farewell_come_without_them() -> None:
    hello = {"v": 1, "net": "n", "chain": [b""], "agent": "1\x1b[2J", "credit": 1, "message": 1}
    assert Hello.decode(pack(hello)).agent_version == "1\ufffd[2J"
    goaway = encode_frame(FrameKind.GOAWAY, meta=pack({"reason": EVIL}))
    assert feed(greeted().dialer, goaway) == [GoawayReceived(TAKEN_OUT)]


def test_no_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    printing.print_table(("NAME",), [(EVIL,)])
    printing.print_fields({EVIL: EVIL, "more": [EVIL], "most": {EVIL: EVIL}})
    printing.hint(EVIL)
    printing.say(EVIL)
    printing.print_json({"name": EVIL})
    command._complain(EVIL)
    shown = capsys.readouterr()
    assert is_plain((shown.out + shown.err).replace("\n", ""))
    assert "owned" in shown.out
    assert "owned" in shown.err


def test_what_refuses_a_peer_s_text_does_not_repeat_them() -> None:
    assert from_wire("run_failed", EVIL).message == TAKEN_OUT
    for bad in ("\x1b[2J", "\u202e", "\u2028", "\u200b", "\u2066", "\x9b"):
        body = {"link_addresses": [], "region": f"eu{bad}", "agent_version": ""}
        with pytest.raises(AdvertRejected, match="region is") as rejected:
            router_from_body(body, PeerId("12D3KooWPeer"), Sequence(1, 1))
        assert is_plain(rejected.value.message)
    with pytest.raises(InvalidRequest) as refused:
        checked(Tensor(EVIL, Datatype.FP32, (1,), b"\0\0\0\0"))
    assert is_plain(refused.value.message)
