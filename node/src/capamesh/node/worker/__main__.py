"""`python -m capamesh.node.worker --channel-fd N`: started by the node agent, never by hand."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from capamesh.protocol.quick_imports import quick_imports

with quick_imports():
    import structlog
    import uvloop

    from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
    from capamesh.protocol.gc_tuning import freeze_loaded_objects
    from capamesh.protocol.logs import configure_logs


async def _run(channel_fd: int) -> None:
    # All that starts a thread, or is not needed before, is imported late: the sandbox holds what comes after it.
    with quick_imports():
        from capamesh.node.contract.messages import Start, worker_message  # noqa: PLC0415
        from capamesh.node.worker.opening import open_and_close  # noqa: PLC0415

    channel = await AsyncioChannel.inherit(channel_fd)
    async for message in channel.messages():
        if message["type"] != Start.TYPE:
            continue
        start = worker_message(message)
        assert isinstance(start, Start)  # noqa: S101 - as its type says
        if start.device_uuid:
            # CUDA numbers devices in its own order: showing it this one alone leaves no doubt
            os.environ["CUDA_VISIBLE_DEVICES"] = start.device_uuid
        log = structlog.get_logger(process="worker", device=start.device_index)
        opened = open_and_close(start, log)
        with quick_imports():
            from capamesh.node.worker.process import Worker  # noqa: PLC0415 - ONNX Runtime starts a thread

        freeze_loaded_objects()
        await Worker(start, opened, channel, log).run()
        return


def main() -> int:
    """Run until the agent says stop or is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channel-fd", type=int, required=True)
    arguments = parser.parse_args()
    configure_logs()
    for number in (signal.SIGINT, signal.SIGTERM):  # when to stop is the agent's to say
        signal.signal(number, signal.SIG_IGN)
    uvloop.run(_run(arguments.channel_fd))
    return 0


if __name__ == "__main__":
    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # numpy would start threads, and needs none here
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nobody has agreed to be reported on
    sys.exit(main())
