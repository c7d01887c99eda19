"""Starts the mesh sidecar; its owner starts it as `python -m capamesh.protocol.mesh --channel-fd N`."""

from __future__ import annotations

import argparse
import logging
import signal

from capamesh.protocol.mesh.left_out import leave_out
from capamesh.protocol.quick_imports import quick_imports

leave_out()  # before anything reads libp2p in
with quick_imports():
    import trio

    from capamesh.protocol.descriptors import raise_descriptor_limit
    from capamesh.protocol.logs import configure_logs
    from capamesh.protocol.mesh.sidecar import run_sidecar


def main() -> None:
    """Read the command line and run until the owner stops or dies."""
    parser = argparse.ArgumentParser(prog="python -m capamesh.protocol.mesh", description=__doc__)
    parser.add_argument(
        "--channel-fd", type=int, required=True, help="inherited end of the owner's channel"
    )
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # when to stop is the owner's to say
        signal.signal(number, signal.SIG_IGN)
    configure_logs()
    # libp2p logs what strangers send as errors; what matters reaches the owner as warnings.
    logging.disable(logging.ERROR)
    raise_descriptor_limit()
    trio.run(run_sidecar, arguments.channel_fd)  # pyright: ignore[reportUnknownMemberType] - the stubs are older than trio


if __name__ == "__main__":
    main()
