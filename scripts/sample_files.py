"""Small real files of many types, made from what Python and scikit-learn carry. Reads them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import pydoc
import sqlite3
import struct
import sys
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import sklearn
from sklearn.datasets import load_digits

REPOSITORY = Path(__file__).resolve().parent.parent


def file_cases() -> Iterator[tuple[str, str, bytes]]:
    """Yield small real files: the expected label, a title and the bytes."""
    source = Path(json.__file__).read_bytes()
    digits = load_digits()
    yield "python", "json/__init__.py", source
    yield (
        "json",
        "package.json",
        json.dumps({"names": list(digits.feature_names)}, indent=1).encode(),
    )
    yield (
        "html",
        "json.html",
        pydoc.HTMLDoc().page("json", pydoc.HTMLDoc().docmodule(json)).encode(),
    )
    yield "toml", "pyproject.toml", (REPOSITORY / "pyproject.toml").read_bytes()
    yield "zip", "json.zip", _zipped({"__init__.py": source})
    yield "gzip", "json.gz", gzip.compress(source, mtime=0)
    yield "tar", "json.tar", _tarred("json/__init__.py", source)
    yield "npy", "digits.npy", _saved(lambda stream: np.save(stream, digits.data[:64]))
    yield "pickle", "digits.pkl", pickle.dumps(digits.data[:64])
    yield "sqlite", "digits.db", _database(digits.target[:64].tolist())
    yield "wav", "tone.wav", _tone()
    yield "xml", "digits.xml", _marked_up(digits.target[:64].tolist())
    images = Path(sklearn.__file__).parent / "datasets"
    yield "csv", "iris.csv", (images / "data/iris.csv").read_bytes()
    yield "rst", "iris.rst", (images / "descr/iris.rst").read_bytes()
    yield "jpeg", "flower.jpg", (images / "images/flower.jpg").read_bytes()
    yield "png", "digit.png", _picture(digits.images[0])
    if sys.platform == "linux":
        yield "elf", "the Python interpreter", Path(sys.executable).resolve().read_bytes()


def _zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def _tarred(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _saved(write: Callable[[io.BytesIO], None]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _database(values: list[int]) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table digits (id integer primary key, label integer not null)")
    connection.executemany("insert into digits (label) values (?)", [(value,) for value in values])
    connection.commit()
    content = connection.serialize()
    connection.close()
    return content


def _tone() -> bytes:
    samples = (np.sin(np.arange(8000) * 0.345) * 20_000).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(samples.tobytes())
    return stream.getvalue()


def _picture(pixels: np.ndarray) -> bytes:
    """Return 8 x 8 pixels from 0 to 16 as a grey PNG."""
    rows = b"".join(b"\0" + row.tobytes() for row in (pixels * 15).astype(np.uint8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _marked_up(values: list[int]) -> bytes:
    root = ET.Element("digits")
    for index, value in enumerate(values):
        ET.SubElement(root, "digit", id=str(index)).text = str(value)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)
