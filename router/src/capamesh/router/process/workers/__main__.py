"""`python -m capamesh.router.process.workers --channel-fd N --http-fds M… --metrics-fds …`: started by a router's main process, never by hand."""

from __future__ import annotations

import argparse
import signal
import socket
import sys

from capamesh.protocol.quick_imports import quick_imports

with quick_imports():
    import structlog
    import uvloop

    from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
    from capamesh.protocol.descriptors import raise_descriptor_limit
    from capamesh.protocol.gc_tuning import freeze_loaded_objects
    from capamesh.protocol.logs import configure_logs
    from capamesh.protocol.system import System
    from capamesh.protocol.thread_turns import let_the_loop_in
    from capamesh.router.process.workers.worker import serve_worker


def _sockets(fds: list[int]) -> list[socket.socket]:
    found = [socket.socket(fileno=each) for each in fds]
    for listening in found:
        listening.set_inheritable(False)
        listening.setblocking(False)
    return found


async def _run(channel_fd: int, http_fds: list[int], metrics_fds: list[int]) -> None:
    shared, shared_metrics = _sockets(http_fds), _sockets(metrics_fds)
    channel = await AsyncioChannel.inherit(channel_fd)
    await serve_worker(
        channel,
        shared,
        shared_metrics,
        System(),
        structlog.get_logger(),
        lambda _: freeze_loaded_objects(),
    )


def main() -> int:
    """Serve until the main process says stop or is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--http-fds", type=int, nargs="+", required=True)
    parser.add_argument("--metrics-fds", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    let_the_loop_in()
    configure_logs()
    raise_descriptor_limit(structlog.get_logger())
    # when to stop is the main process's to say, also where a service's manager signals all of its processes
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    uvloop.run(_run(arguments.channel_fd, arguments.http_fds, arguments.metrics_fds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
