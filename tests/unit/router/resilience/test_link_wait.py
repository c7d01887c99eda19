from __future__ import annotations

from capamesh.router.resilience.link_wait import LinkWait


def test_link_wakes_all_who_wait_once_in_their_order() -> None:
    links, reported = LinkWait(), []
    for name in "abc":
        links.add(name, lambda name=name: reported.append(name))  # type: ignore[misc]
    links.remove("b")
    links.remove("x")
    assert repr(links) == "LinkWait(2 waiting, 0 bytes)"
    links.linked()
    assert (reported, len(links)) == (["a", "c"], 0)
    links.linked()
    assert reported == ["a", "c"]


def test_woken_request_may_send_another_away() -> None:
    links, reported = LinkWait(), []
    links.add("a", lambda: links.remove("b"))
    links.add("b", lambda: reported.append("b"))
    links.linked()
    assert (reported, len(links)) == ([], 0)


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
