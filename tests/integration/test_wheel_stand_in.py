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


def test_stand_in_is_for_every_platform_meets_the_pin_of_libp2p_and_is_preferred_to_the_real_one(
    wheel: Path,
) -> None:
    _, version, _, tags = parse_wheel_filename(wheel.name)
    assert {str(tag) for tag in tags} == {"py3-none-any"}
    wanted = map(Requirement, requires("libp2p") or ())
    (pin,) = (each for each in wanted if each.name == "fastecdsa")
    assert max(pin.specifier.filter([Version("2.3.2"), version])) == version


def test_mesh_is_read_in_with_the_stand_in(unpacked: Path) -> None:
    program = (
        "import fastecdsa, pathlib, libp2p.security.secio.transport, capamesh.protocol.mesh.host\n"
        "print(pathlib.Path(fastecdsa.__file__).parent)"
    )
    assert run(unpacked, program) == str(unpacked / "fastecdsa")


CALLS = """
import fastecdsa
from fastecdsa import curve, keys, point
from fastecdsa.encoding.sec1 import SEC1Encoder
from fastecdsa.encoding.util import int_bytelen as width
from libp2p.crypto.key_exchange import create_ephemeral_key_pair
print([width(n) for n in (0, 1, 255, 256, 2**256 - 1)])
for call in (
    lambda: keys.gen_private_key(curve.P256),
    lambda: keys.get_public_key(1, curve.P256),
    lambda: keys.export_key(1, curve.P256, encoder=keys.PEMEncoder),
    lambda: point.Point(1, 2, curve.P256),
    lambda: SEC1Encoder.encode_public_key(None, compressed=False),
    lambda: SEC1Encoder.decode_public_key(b"", curve.P256),
    lambda: create_ephemeral_key_pair("P-256"),
):
    try:
        call()
    except fastecdsa.NotSupported as error:
        print(error)
"""


def test_calls_of_the_stand_in_are_refused_with_the_line_to_run_but_widths_are_the_real_ones(
    unpacked: Path,
) -> None:
    widths, *refusals = run(unpacked, CALLS).splitlines()
    assert widths == "[0, 1, 1, 2, 32]"
    line = "pip install --force-reinstall --no-binary fastecdsa fastecdsa==2.3.2"
    assert [each.endswith(line) for each in refusals] == [True] * 7
