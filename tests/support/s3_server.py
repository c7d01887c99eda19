"""A server of S3 for tests: moto, in a process of its own, on a port of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

KEY = "AKIATESTTESTTEST"
SECRET = "secret/that+no/text/may/say"  # noqa: S105 - of a server that is there for a test
BUCKET = "bucket"
_PROGRAM = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class S3Server:
    """One server with one bucket."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def client(self) -> Any:
        """Return boto's client, by which a test sees what is in the bucket."""
        import boto3  # noqa: PLC0415 - it takes half a second

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def put(self, key: str, data: bytes) -> None:
        self.client().put_object(Bucket=BUCKET, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        found: bytes = self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return found

    def keys(self, prefix: str = "") -> list[str]:
        found = self.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return sorted(each["Key"] for each in found.get("Contents", []))

    def open_uploads(self) -> list[str]:
        """Return the keys of multipart uploads that were begun and never ended."""
        found = self.client().list_multipart_uploads(Bucket=BUCKET)
        return [each["Key"] for each in found.get("Uploads", [])]

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return what a router's environment says of the server, or of what stands before it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server, or leave the test out where moto is not installed."""
    pytest.importorskip("moto")
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        server = S3Server(process, int(process.stdout.readline()))
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        with process:  # closes its pipes, and waits for it
            pass
