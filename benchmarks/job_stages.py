"""Tells where the CPU time of one row of a tiny model goes, stage by stage, and what of it no code of ours can save.

    python benchmarks/job_stages.py [--rows 100000] [--forms npz,parquet,csv,jsonl] [--outputs parquet,npz,jsonl]

A row has 64 numbers and ten results, as that of `tiny` in `jobs.py`. Each stage runs by itself in one thread, and its CPU time is
counted, so that a busy machine tells nearly the same as one at rest: reading, casting and packing each form of input; each form of
a part; and the floor, which is the reading of the file's bytes, their SHA-256, TLS 1.3 from one socket to another as links have it, and
ONNX Runtime alone on one thread, in batches of 1,024 rows.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anchor_models
import numpy as np
import onnxruntime as ort
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from job_contestants import WRITERS, csv_names  # noqa: E402 - found by the path set above
from job_files import ANYWHERE  # noqa: E402

from capamesh.protocol.datatypes import Datatype  # noqa: E402
from capamesh.protocol.tensor_spec import TensorSpec  # noqa: E402
from capamesh.protocol.tensors import Tensor  # noqa: E402
from capamesh.router.jobs.inputs.limits import ShardLimits  # noqa: E402
from capamesh.router.jobs.inputs.opening import open_reader  # noqa: E402
from capamesh.router.jobs.inputs.row_numbers import NumberNames  # noqa: E402
from capamesh.router.jobs.inputs.rows import read_windows  # noqa: E402
from capamesh.router.jobs.outputs.parts import part_chunks  # noqa: E402
from capamesh.router.jobs.outputs.results import Results  # noqa: E402
from capamesh.router.jobs.running.packing import Packer  # noqa: E402
from capamesh.router.jobs.spec import InputFormat, InputSpec, OutputFormat  # noqa: E402

BATCH = 1024
CALL_ROWS = 16 * BATCH
RECORD_BYTES = 16 * 1024
MOST_OF_TEXT = 20_000
"""The most rows of a part of text: a row takes a hundred times as long as in another form."""
ROUNDS = 3
SPEC = {"x": TensorSpec("x", Datatype.FP32, (-1, 64))}


def median_us(rows: int, run: Callable[[], float]) -> float:
    """Return the microseconds a row of what returns its CPU seconds: the median of some runs."""
    return statistics.median(run() for _ in range(ROUNDS)) / rows * 1e6


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does something and returns the CPU seconds of it."""

    def run() -> float:
        began_s = time.process_time()
        work()
        return time.process_time() - began_s

    return run


def source(path: Path, form: str, array: np.ndarray) -> InputSpec:
    """Return the input of a file, which is written."""
    WRITERS[form](path, {"x": array})
    columns = csv_names("x", array) if form == "csv" else ["x"]
    return InputSpec(str(path), InputFormat(form), {"x": tuple(columns)})


def planned(spec: InputSpec) -> None:
    """Plan an input as for a quick model."""
    list(open_reader(spec, "t", ANYWHERE).ranges(ShardLimits(5_000_000)))


def batches(spec: InputSpec) -> list[Tensor]:
    """Read an input, and return the tensors of its calls."""
    reader = open_reader(spec, "t", ANYWHERE)
    packer = Packer(lambda: BATCH, lambda: CALL_ROWS)
    tensors: list[Tensor] = []
    for each in reader.ranges(ShardLimits(5_000_000)):
        for window in read_windows(reader, each, spec, SPEC):
            for batch in window.batches:
                tensors += [
                    Tensor.from_numpy("x", call.inputs["x"], Datatype.FP32)
                    for call in packer.add(batch)
                ]
    return tensors


def results(rows: int) -> list[Results]:
    """Return the results of calls, as they come of a link."""
    scores = np.random.default_rng(0).random((rows, 10), np.float32)
    found: list[Results] = []
    for first in range(0, rows, CALL_ROWS):
        numbers = range(first, min(rows, first + CALL_ROWS))
        names = NumberNames(numbers)
        found.append(Results(numbers, names, {"y": scores[numbers.start : numbers.stop]}))
    return found


# the floor


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate and its key, and return their files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "floor")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))
    return files


def tls(data: memoryview, folder: Path) -> tuple[float, float, str]:
    """Send bytes over TLS; return the CPU seconds of the sender and of the receiver, and the cipher."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate(folder))
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE
    listener = socket.create_server(("127.0.0.1", 0))
    took_s = [0.0, 0.0]

    def receive() -> None:
        plain, _ = listener.accept()
        with serving.wrap_socket(plain, server_side=True) as link:
            memory = memoryview(bytearray(len(data)))
            began_s = time.thread_time()
            filled = 0
            while filled < len(memory):
                filled += link.recv_into(memory[filled : filled + RECORD_BYTES])
            took_s[1] = time.thread_time() - began_s

    thread = threading.Thread(target=receive)
    thread.start()
    with (
        socket.create_connection(listener.getsockname()) as plain,
        asking.wrap_socket(plain) as link,
    ):
        began_s = time.thread_time()
        for first in range(0, len(data), RECORD_BYTES):
            link.sendall(data[first : first + RECORD_BYTES])
        took_s[0] = time.thread_time() - began_s
        cipher = link.cipher()
        thread.join()
    listener.close()
    return took_s[0], took_s[1], "" if cipher is None else cipher[0]


def floor(array: np.ndarray, folder: Path) -> dict[str, float]:
    """Return the microseconds a row of what is done in any case."""
    rows = len(array)
    path = folder / "floor.npy"
    np.save(path, array)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = anchor_models.mlp().SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    ways = [tls(memoryview(array).cast("B"), folder) for _ in range(ROUNDS)]
    part = np.zeros((rows, 15), np.float32).tobytes()

    def run() -> None:
        for first in range(0, rows, BATCH):
            session.run(None, {"x": array[first : first + BATCH]})

    return {
        "read the file": median_us(rows, timed(path.read_bytes)),
        f"TLS, to send ({ways[0][2]})": statistics.median(way[0] for way in ways) / rows * 1e6,
        "TLS, to receive": statistics.median(way[1] for way in ways) / rows * 1e6,
        "ONNX Runtime": median_us(rows, timed(run)),
        "SHA-256 of a part's 60 bytes": median_us(rows, timed(lambda: hashlib.sha256(part))),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--forms", default="npz,parquet,csv,jsonl")
    parser.add_argument("--outputs", default="parquet,npz,jsonl")
    options = parser.parse_args()
    rows = options.rows
    array = np.random.default_rng(1).random((rows, 64), np.float32)
    console = Console(highlight=False)
    console.print("CPU time a row, microseconds")
    with tempfile.TemporaryDirectory(prefix="capamesh-stages-") as top:
        folder = Path(top)
        for form in options.forms.split(","):
            spec = source(folder / f"in.{form}", form, array)
            plan_us = median_us(rows, timed(lambda spec=spec: planned(spec)))
            read_us = median_us(rows, timed(lambda spec=spec: batches(spec)))
            console.print(
                f"  {form}: plan {plan_us:.3f}, read, cast and pack {read_us - plan_us:.3f}"
            )
        for form in options.outputs.split(","):
            count = min(rows, MOST_OF_TEXT) if form == "jsonl" else rows
            given = results(count)
            write = timed(
                lambda given=given, form=form: list(part_chunks(given, OutputFormat(form)))
            )
            console.print(f"  part as {form}: {median_us(count, write):.3f}")
        for name, us in floor(array, folder).items():
            console.print(f"  {name}: {us:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
