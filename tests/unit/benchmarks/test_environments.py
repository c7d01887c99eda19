"""Programs that benchmarks bring for themselves: found, unpacked, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_modules import load

environments = load("environments")
APT_GET = """#!/bin/sh
case "$1" in
  install) echo "Inst libthing1 (1.0 Debian)"; echo "Conf libthing1"; echo "Inst thing (2.0 Debian)" ;;
  download) shift; for name in "$@"; do echo > "$name.deb"; done ;;
esac
"""
DPKG_DEB = """#!/bin/sh
/bin/mkdir -p "$3/usr/sbin" "$3/usr/lib/some-linux-gnu"
echo "$2" > "$3/usr/sbin/$(/usr/bin/basename "$2" .deb)"
"""


@pytest.fixture(name="path")
def _path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o755)
    return file


def test_installed_program_is_taken(path: Path, tmp_path: Path) -> None:
    thing = program(path / "thing", "")
    found = environments.debian_program("thing", tmp_path / "home")
    assert (found.path, found.variables) == (str(thing), {})
    assert not (tmp_path / "home").exists()


def test_missing_program_is_unpacked_with_what_it_needs(path: Path, tmp_path: Path) -> None:
    program(path / "apt-get", APT_GET)
    program(path / "dpkg-deb", DPKG_DEB)
    home = tmp_path / "home"
    found = environments.debian_program("thing", home)
    assert found.path == str(home / "usr/sbin/thing")
    assert found.variables == {"LD_LIBRARY_PATH": str(home / "usr/lib/some-linux-gnu")}
    assert sorted(file.name for file in (home / "archives").iterdir()) == [
        "libthing1.deb",
        "thing.deb",
    ]


def test_missing_program_is_refused_where_there_is_no_apt_get(path: Path, tmp_path: Path) -> None:
    del path
    with pytest.raises(environments.NotInstalled, match=r"no thing here, and no apt-get"):
        environments.debian_program("thing", tmp_path / "home")


def test_refusal_names_no_folder_of_this_machine(path: Path) -> None:
    failing = program(path / "pip", "#!/bin/sh\necho 'no such thing'\nexit 1\n")
    with pytest.raises(
        environments.NotInstalled, match=r"^pip install thing \.\.\. failed: no such thing$"
    ):
        environments._run((str(failing), "install", "thing"))


def test_refusal_has_the_last_line_of_what_failed(path: Path, tmp_path: Path) -> None:
    program(path / "apt-get", "#!/bin/sh\necho 'E: Unable to locate package thing' >&2\nexit 100\n")
    with pytest.raises(
        environments.NotInstalled,
        match=r"apt-get install --simulate .* failed: E: Unable to locate package thing",
    ):
        environments.debian_program("thing", tmp_path / "home")
