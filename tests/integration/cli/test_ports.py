"""The ports of `capamesh up` and `join`: real sockets, and two starts at the same moment."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from free_ports import OF_NOBODY, free_port

from capamesh.cli import ports
from capamesh.cli.ports import NODE, ROUTER_AND_NODE, TakenPorts, take_ports
from capamesh.protocol.errors import ConfigError

HERE = "127.0.0.1"
STARTS = 16


@contextmanager
def listening(port: int) -> Iterator[int]:
    """Listen as a member does."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HERE, port))
        listener.listen(1)
        yield int(listener.getsockname()[1])


def free(count: int) -> list[int]:
    """Return free ports that no start beside a test takes before the test does."""
    with ExitStack() as stack:
        return [stack.enter_context(listening(free_port(HERE, OF_NOBODY))) for _ in range(count)]


def free_row(count: int) -> int:
    """Return a port that begins so many free ones."""
    for first in OF_NOBODY[::count]:
        try:
            with take_ports(ROUTER_AND_NODE, HERE, {}, first):
                return first
        except ConfigError:
            continue
    raise AssertionError("no row of ports is free")


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The usual ports, which this machine may have in use, replaced by free ones."""
    found = dict(zip(ROUTER_AND_NODE, free(len(ROUTER_AND_NODE)), strict=True))
    monkeypatch.setattr(ports, "_USUAL", found)
    return found


def test_first_start_takes_the_usual_ports_and_another_one_any_other(usual: dict[str, int]) -> None:
    with take_ports(ROUTER_AND_NODE, HERE, {}, None) as first:
        assert first.by_name == usual
        with take_ports(NODE, HERE, {}, None) as second:
            assert set(second.by_name) == set(NODE)
            assert not set(second.by_name.values()) & set(usual.values())
    with take_ports(ROUTER_AND_NODE, HERE, {}, None) as again:
        assert again.by_name == usual


def test_usual_port_where_somebody_listens_is_left_to_them(usual: dict[str, int]) -> None:
    with (
        listening(usual["node_links"]),
        take_ports(ROUTER_AND_NODE, HERE, {}, None) as taken,
    ):
        changed = {name for name, port in taken.by_name.items() if port != usual[name]}
    assert changed == {"node_links"}


def test_kept_ports_are_taken_again_and_say_so_where_they_cannot_be() -> None:
    mesh, links = free(2)
    kept = {"node_mesh": mesh, "node_links": links}
    with take_ports(NODE, HERE, kept, None) as taken:
        assert taken.by_name == kept
        with pytest.raises(ConfigError, match=rf"the port {mesh} .*Address already in use"):
            take_ports(NODE, HERE, kept, None)
    with listening(links):
        with pytest.raises(
            ConfigError,
            match=rf"the port {links} cannot be listened on: Address already in use; this network had it at its last start, "
            r"for requests to its node: end the process that has it .* --port PORT .* --port 0",
        ):
            take_ports(NODE, HERE, kept, None)
        # what was taken before the refusal is free again
        with take_ports(("node_mesh",), HERE, kept, None):
            pass
        with take_ports(NODE, HERE, kept, 0) as others:
            assert links not in others.by_name.values()


def test_given_port_is_the_first_of_a_row() -> None:
    first = free_row(4)
    with take_ports(ROUTER_AND_NODE, HERE, {"router_mesh": 1}, first) as taken:
        assert list(taken.by_name.values()) == [first, first + 1, first + 2, first + 3]
    with (
        listening(first + 2),
        pytest.raises(ConfigError, match=rf"the port {first + 2} .* give another --port"),
    ):
        take_ports(ROUTER_AND_NODE, HERE, {}, first)


def test_starts_at_the_same_moment_never_choose_the_same_port(usual: dict[str, int]) -> None:
    begin, found = threading.Barrier(STARTS), list[TakenPorts]()

    def start() -> None:
        begin.wait()
        found.append(take_ports(ROUTER_AND_NODE, HERE, {}, None))

    threads = [threading.Thread(target=start) for _ in range(STARTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ExitStack() as stack:
        chosen = [port for each in found for port in stack.enter_context(each).by_name.values()]
    assert len(chosen) == len(set(chosen)) == STARTS * len(ROUTER_AND_NODE)
    assert set(usual.values()) <= set(chosen)


def test_any_free_ports_are_none_that_outgoing_connections_get() -> None:
    for _ in range(20):
        with take_ports(ROUTER_AND_NODE, HERE, {}, 0) as taken:
            assert max(taken.by_name.values()) < 32_768


def test_no_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_TRIES", 0)
    with pytest.raises(ConfigError, match=r"no port of 127\.0\.0\.1 is free for the gossip"):
        take_ports(NODE, HERE, {}, 0)


def test_ports_stay_taken_when_the_process_goes_on_as_another_program() -> None:
    kept = dict(zip(NODE, free(len(NODE)), strict=True))
    program = (
        "import os, sys\n"
        "from capamesh.cli.ports import NODE, take_ports\n"
        f"taken = take_ports(NODE, '127.0.0.1', {kept}, None)\n"
        "taken.stay_over_exec()\n"
        "ports = ' '.join(map(str, taken.by_name.values()))\n"
        "code = f'print(\"{ports}\", flush=True); input()'\n"
        "os.execv(sys.executable, (sys.executable, '-c', code))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().split() == [str(port) for port in kept.values()]
        with pytest.raises(ConfigError, match=f"the port {kept['node_mesh']} "):
            take_ports(NODE, HERE, kept, None)
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait() == 0
    with take_ports(NODE, HERE, kept, None) as taken:
        assert taken.by_name == kept
