"""The stand-in for fastecdsa is built without a compiler, meets libp2p's pin, and is all that the mesh needs of it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from packaging.version import Version
from wheels import ROOT, Builder

STAND_IN = ROOT / "requirements" / "fastecdsa"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Builder(STAND_IN, tmp_path_factory.mktemp("venv")).wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(unpacked: Path, program: str) -> str:
    """Return what a program prints that finds the stand-in before all other packages."""
    begin = f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", begin + program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_stand_in_is_for_every_python_and_platform(wheel: Path) -> None:
    _, _, _, tags = parse_wheel_filename(wheel.name)
    assert {str(tag) for tag in tags} == {"py3-none-any"}


def test_stand_in_meets_the_pin_of_libp2p_and_is_preferred_to_the_real_one(wheel: Path) -> None:
    (pin,) = (
        wanted
        for wanted in map(Requirement, requires("libp2p") or ())
        if wanted.name == "fastecdsa"
    )
    _, version, _, _ = parse_wheel_filename(wheel.name)
    assert max(pin.specifier.filter([Version("2.3.2"), version])) == version


def test_mesh_is_read_in_with_the_stand_in(unpacked: Path) -> None:
    program = (
        "import fastecdsa, pathlib, libp2p.security.secio.transport, capamesh.protocol.mesh.host\n"
        "print(pathlib.Path(fastecdsa.__file__).parent)"
    )
    assert run(unpacked, program) == str(unpacked / "fastecdsa")


def test_key_exchange_of_secio_is_refused_with_the_line_to_run(unpacked: Path) -> None:
    program = (
        "import fastecdsa\n"
        "from libp2p.crypto.key_exchange import create_ephemeral_key_pair\n"
        "try:\n    create_ephemeral_key_pair('P-256')\n"
        "except fastecdsa.NotSupported as error:\n    print(error)"
    )
    assert run(unpacked, program).endswith(
        "pip install --force-reinstall --no-binary fastecdsa fastecdsa==2.3.2"
    )


def test_calls_of_the_stand_in_are_refused(unpacked: Path) -> None:
    program = (
        "import fastecdsa\n"
        "from fastecdsa import curve, keys, point\n"
        "from fastecdsa.encoding.sec1 import SEC1Encoder\n"
        "calls = [lambda: keys.gen_private_key(curve.P256), lambda: keys.get_public_key(1, curve.P256),\n"
        "         lambda: keys.export_key(1, curve.P256, encoder=keys.PEMEncoder), lambda: point.Point(1, 2, curve.P256),\n"
        "         lambda: SEC1Encoder.encode_public_key(None, compressed=False),\n"
        "         lambda: SEC1Encoder.decode_public_key(b'', curve.P256)]\n"
        "for call in calls:\n"
        "    try:\n        call()\n"
        "    except fastecdsa.NotSupported:\n        print('refused')\n"
    )
    assert run(unpacked, program).split() == ["refused"] * 6


def test_widths_of_numbers_are_those_of_the_real_one(unpacked: Path) -> None:
    program = "from fastecdsa.encoding.util import int_bytelen as width\nprint([width(n) for n in (0, 1, 255, 256, 2**256 - 1)])"
    assert run(unpacked, program) == "[0, 1, 1, 2, 32]"
