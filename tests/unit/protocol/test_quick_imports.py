from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, sys
from capamesh.protocol.quick_imports import quick_imports
with quick_imports():
    assert not gc.isenabled()
    import capamesh.protocol.logs
assert gc.isenabled()
read = {name.split(".")[0] for name in sys.modules} & {"rich", "pygments", "greenlet"}
assert not read, read
import rich.console
with quick_imports():
    try:
        import rich.table
    except ImportError:
        pass
    else:
        raise AssertionError("rich was read in")
import rich.table
assert sys.modules["rich"].console is rich.console
"""


def test_imports_leave_out_what_services_do_not_use_and_others_may_still_read() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
