from __future__ import annotations

from capamesh.router.resilience.link_wait import LinkWait


def test_wait_has_room_for_so_many_and_so_many_bytes_and_for_any_one_alone() -> None:
    links = LinkWait(most=2, most_bytes=100)
    assert links.has_room(1000)
    links.add("a", lambda: None, 60)
    assert (links.has_room(40), links.has_room(41)) == (True, False)
    links.add("a", lambda: None, 50)  # the same one again
    assert links.has_room(50)
    links.add("b", lambda: None, 10)
    assert not links.has_room(0)
    links.remove("a")
    assert (links.has_room(90), links.has_room(91)) == (True, False)
    links.linked()
    assert (len(links), links.has_room(1000)) == (0, True)
