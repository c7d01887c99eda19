"""`python -m capamesh.router.jobs.readers --channel-fd N --files-fd M --rows-fd K`: started by a router, never by hand."""

from __future__ import annotations

import argparse
import os

from capamesh.protocol.quick_imports import quick_imports

if __name__ == "__main__":  # before the imports, which take half a second of a core
    os.nice(10)  # requests of people come first; somebody waits for a look, all the same (guess)

with quick_imports():
    from capamesh.router.jobs.readers import child

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--channel-fd", "--files-fd", "--rows-fd"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    child.main(arguments.channel_fd, arguments.files_fd, arguments.rows_fd)
