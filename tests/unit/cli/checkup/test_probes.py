"""The reading of facts from a made-up file system, and from this process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from capamesh.cli.checkup import gpu_probes, machine_probes
from capamesh.cli.checkup.gpu import LIBRARIES

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LINE = "   0: 0100007F:1F40 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"


def fake_process(root: Path, pid: int, inode: int, command: bytes) -> None:
    folder = root / "proc" / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "fd" / "3").symlink_to(f"socket:[{inode}]")
    (folder / "cmdline").write_bytes(command)
    (folder / "comm").write_text("python\n")


def fake_tables(root: Path, tcp: str, tcp6: str = "") -> None:
    folder = root / "proc" / "net"
    folder.mkdir(parents=True)
    (folder / "tcp").write_text(HEAD + tcp)
    (folder / "tcp6").write_text(HEAD + tcp6)


def test_port_of_a_listener_is_not_free_and_another_is() -> None:
    def is_free_again() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            assert not machine_probes.port_use(port).is_free
        return machine_probes.port_use(port).is_free

    assert any(is_free_again() for _ in range(20))  # another process may have got one meanwhile


def test_folder_that_does_not_exist_is_judged_by_its_parent_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tmp_path / "a" / "b"
    found = machine_probes.folder_facts(wanted)
    assert (found.problem, found.free_bytes > 0, list(tmp_path.iterdir())) == ("", True, [])
    (tmp_path / "a").write_text("")
    assert machine_probes.folder_facts(wanted).problem.endswith("a is no folder")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert "may not write" in machine_probes.folder_facts(tmp_path).problem


def test_hardware_is_a_display_device_of_nvidia(tmp_path: Path) -> None:
    def device(name: str, vendor: str, kind: str) -> None:
        folder = tmp_path / "sys/bus/pci/devices" / name
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "class").write_text(kind + "\n")

    device("0000:00:01.0", "0x8086", "0x030000")
    device("0000:00:02.0", "0x10de", "0x020000")
    assert not gpu_probes.has_hardware(tmp_path)
    device("0000:00:03.0", "0x10de", "0x030200")
    assert gpu_probes.has_hardware(tmp_path)


def test_libraries_are_found_in_packages_of_nvidia(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nvidia" / "cudnn" / "lib"
    folder.mkdir(parents=True)
    (folder / LIBRARIES[-1]).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gpu_probes, "_known_to_the_loader", set)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert LIBRARIES[-1] in set(gpu_probes.found_libraries())


@pytest.mark.parametrize(
    ("tables", "command", "listener"),
    [
        ((LINE.format(state="0A", inode=77), ""), "python\0-m\0http.server\0", "python (pid 12)"),
        (
            ("", LINE.format(state="0A", inode=77)),
            "/usr/bin/python\0/opt/bin/capamesh\0router\0run\0",
            "capamesh (pid 12)",
        ),
        ((LINE.format(state="01", inode=77), ""), "curl\0", ""),  # a connection
    ],
)
def test_listener_is_found_by_its_socket(
    tmp_path: Path, tables: tuple[str, str], command: str, listener: str
) -> None:
    fake_tables(tmp_path, *tables)
    fake_process(tmp_path, 11, 76, b"nginx\0")
    fake_process(tmp_path, 12, 77, command.encode())
    assert machine_probes.listener_of(8000, tmp_path) == listener
