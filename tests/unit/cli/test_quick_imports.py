from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, sys
from capamesh.cli.quick_imports import quick_imports
with quick_imports():
    assert not gc.isenabled()
    import capamesh.cli.services, capamesh.router.process.parts, capamesh.router.process.router
assert gc.isenabled()
read = [name for name in sys.modules if name.split(".")[0] in {"rich", "pygments", "onnx", "onnxruntime"}]
assert not read, read
import rich.console
with quick_imports():
    import rich
"""


def test_router_is_read_in_without_what_it_does_not_use_which_others_may_still_read() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
