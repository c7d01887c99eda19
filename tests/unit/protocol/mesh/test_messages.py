from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.channel.framing import Decoder, encode
from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.mesh.gossip import (
    PayloadKind,
    unwrap,
    wrap,
)
from capamesh.protocol.mesh.messages import (
    Dial,
    Drains,
    Heard,
    Members,
    Publish,
    Ready,
    Revocations,
    Start,
    Stop,
    Subscribed,
    Warned,
    from_wire,
    to_wire,
)

texts = st.lists(st.text(), max_size=3)
start = st.builds(
    Start,
    private_key=st.binary(),
    chain=st.lists(st.binary(), max_size=2),
    ca_der=st.binary(),
    revocations=st.binary(),
    drains=st.binary(),
    listen=texts,
    bootstrap=texts,
    use_mdns=st.booleans(),
    subscribe=texts,
)
messages = st.one_of(
    start,
    st.builds(Publish, st.text(), st.binary()),
    st.builds(Revocations, st.binary()),
    st.builds(Drains, st.binary()),
    st.builds(Dial, texts),
    st.just(Stop()),
    st.builds(Ready, st.text(), texts),
    st.builds(Heard, st.text(), st.binary(), st.text(), st.text()),
    st.builds(Members, texts, texts),
    st.builds(Subscribed, st.text(), texts),
    st.builds(Warned, st.text(), st.text(), st.integers(0, 2**60)),
)


@given(messages)
def test_every_message_survives_the_channel(message: object) -> None:
    (raw,) = Decoder().feed(encode(to_wire(message)))
    assert from_wire(raw) == message


@given(messages, st.data())
def test_missing_or_wrong_field_is_named(message: object, data: st.DataObject) -> None:
    raw = to_wire(message)
    names = [name for name in raw if name != "type"]
    if not names:
        return
    name = data.draw(st.sampled_from(names))
    wrong = data.draw(st.sampled_from([None, 1.5, {"a": 1}, [1], [None]]))
    with pytest.raises(ProtocolViolation, match=rf": {name}(\[0\])? is [\w ]+, expected"):
        from_wire(raw | {name: wrong})
    del raw[name]
    with pytest.raises(ProtocolViolation, match=f": {name} is missing"):
        from_wire(raw)


def test_payload_is_a_kind_byte_and_a_body() -> None:
    assert wrap(PayloadKind.ENVELOPE, b"abc") == b"Eabc"
    assert unwrap(b"Eabc") == (PayloadKind.ENVELOPE, b"abc")
    assert unwrap(b"R") == (PayloadKind.REVOCATIONS, b"")
    assert unwrap(b"") is None
    assert unwrap(b"Zabc") is None


def test_start_that_does_not_fit_does_not_tell_its_key_and_another_message_is_named() -> None:
    start = Start(b"s3cret", [], b"", b"", b"", [], [], False, [])
    assert "s3cret" not in repr(start)
    with pytest.raises(ProtocolViolation, match=r"private_key is of type str, expected bytes$"):
        from_wire(to_wire(start) | {"private_key": "s3cret"})
    with pytest.raises(ProtocolViolation, match="unknown mesh message 'new'"):
        from_wire({"type": "new"})
