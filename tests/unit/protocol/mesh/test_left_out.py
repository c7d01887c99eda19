from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from capamesh.protocol.mesh.left_out import LEFT_OUT

BEGIN = """
import sys
from capamesh.protocol.mesh.left_out import LOCAL_DISCOVERY, leave_out, read_in
leave_out()
import libp2p, libp2p.discovery.mdns.utils
"""


def run(program: str) -> str:
    """Return what a program prints in a process that leaves the parts out."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", BEGIN + program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.full
def test_import_of_libp2p_reads_no_part_in_and_has_all_that_are_left_out() -> None:
    assert [part for part in LEFT_OUT if find_spec(part) is None] == []
    program = (
        "from capamesh.protocol.mesh.left_out import LEFT_OUT\n"
        "print([name for name in sys.modules if name.startswith(LEFT_OUT) and sys.modules[name].__spec__.origin])"
    )
    assert run(program) == "[]"


def test_part_that_is_read_in_after_all_is_the_real_one() -> None:
    program = (
        "read_in(LOCAL_DISCOVERY)\n"
        "from libp2p.discovery.mdns.broadcaster import PeerBroadcaster\n"
        "from libp2p.discovery.mdns.utils import stringGen\n"
        "import libp2p.relay\n"
        "print(PeerBroadcaster.register.__name__, len(stringGen(7)), libp2p.relay.__spec__.origin)"
    )
    assert run(program) == "register 7 None"
