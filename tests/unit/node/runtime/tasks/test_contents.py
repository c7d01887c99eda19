"""Pictures and files to the rows of a model."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from capamesh.node.repository.task_rules import FileRules, Fit, ImageRules, Layout
from capamesh.node.runtime.tasks import contents, pictures
from capamesh.node.runtime.tasks.contents import FileTask, ImageTask
from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, join_elements

RULES = ImageRules(width=2, height=2, scale=1.0, formats=("PNG", "JPEG"))
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20


def file_of(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def image_task(rules: ImageRules, row: tuple[int, ...] = (3, 2, 2)) -> ImageTask:
    return ImageTask(TensorSpec("x", Datatype.FP32, (-1, *row)), row, rules)


def rows_of(task: ImageTask | FileTask, *files: bytes) -> np.ndarray:
    name = "image" if isinstance(task, ImageTask) else "file"
    tensor = Tensor(name, Datatype.BYTES, (len(files),), join_elements(files))
    (made,) = task.request([tensor], ()).inputs()
    assert made.name == "x"
    return made.to_numpy()


def test_pixels_come_in_planes_or_side_by_side_or_flat() -> None:
    png = file_of(PIXELS)
    np.testing.assert_array_equal(
        rows_of(image_task(RULES), png, png), np.stack([PIXELS.transpose(2, 0, 1)] * 2)
    )
    beside = replace(RULES, layout=Layout.NHWC)
    np.testing.assert_array_equal(rows_of(image_task(beside, (2, 2, 3)), png)[0], PIXELS)
    flat = replace(RULES, layout=Layout.FLAT)
    np.testing.assert_array_equal(rows_of(image_task(flat, (12,)), png)[0], PIXELS.ravel())


def test_transparent_is_white_and_the_camera_was_held_upright() -> None:
    clear = np.zeros((2, 2, 4), np.uint8)
    assert rows_of(image_task(RULES), file_of(clear)).min() == 255
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    png = file_of(PIXELS, exif=turned)
    np.testing.assert_array_equal(
        rows_of(image_task(RULES), png)[0], PIXELS[::-1, ::-1].transpose(2, 0, 1)
    )


def test_other_proportions_are_stretched_or_cut() -> None:
    wide = np.zeros((2, 6, 3), np.uint8)
    wide[:, 2:4] = 200
    cut = rows_of(image_task(replace(RULES, fit=Fit.CROP)), file_of(wide))
    assert cut.min() == cut.max() == 200
    stretched = rows_of(image_task(RULES), file_of(wide))
    assert 0 < stretched.min() < 200


def test_more_pixels_than_allowed_are_refused_by_the_head_alone() -> None:
    bomb = file_of(np.zeros((300, 300, 3), np.uint8))
    assert len(bomb) < 2000
    with pytest.raises(TooLarge, match="image 0 has 300 x 300 pixels; at most 1000 are taken"):
        rows_of(image_task(replace(RULES, max_pixels=1000)), bomb)


def test_jpeg_of_countless_scans_is_refused_before_any_is_decoded() -> None:
    jpeg = file_of(np.full((64, 64, 3), 90, np.uint8), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    scans = jpeg.count(b"\xff\xda")
    most = jpeg[:-2] + scan * (pictures.MAX_SCANS - scans) + jpeg[-2:]
    assert rows_of(image_task(RULES), most).shape == (1, 3, 2, 2)
    with pytest.raises(TooLarge, match="image 0 has more than 100 scans"):
        rows_of(image_task(RULES), jpeg[:-2] + scan * (pictures.MAX_SCANS - scans + 1) + jpeg[-2:])


@pytest.mark.filterwarnings("error")
def test_size_that_pillow_itself_refuses_is_too_large() -> None:
    head = bytearray(file_of(PIXELS))
    head[16:24] = (40_000).to_bytes(4, "big") * 2
    crc = __import__("zlib").crc32(bytes(head[12:29]))
    head[29:33] = crc.to_bytes(4, "big")
    with pytest.raises(TooLarge, match="image 0 has"):
        rows_of(image_task(RULES), bytes(head))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "image 0, of 0 bytes, is no picture of a format that is taken: PNG, JPEG"),
        (b"GIF89a" + bytes(50), "is no picture of a format"),
        (file_of(PIXELS)[:45], "image 0 is a broken picture: "),
        (file_of(np.full((64, 64, 3), 90, np.uint8), "JPEG")[:300], "image 0 is a broken picture"),
    ],
)
def test_file_that_is_no_picture_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        rows_of(image_task(RULES), raw)


def test_file_of_a_picture_is_bounded() -> None:
    png = file_of(PIXELS)
    refusal = f"image 1 has {len(png) + 1} bytes; this model takes {len(png)}"
    with pytest.raises(TooLarge, match=refusal):
        rows_of(image_task(replace(RULES, max_bytes=len(png))), png, png + b"x")


def test_rows_that_would_be_made_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_MADE_BYTES", 96)
    png = file_of(PIXELS)
    rows_of(image_task(RULES), png, png)
    with pytest.raises(TooLarge, match="a request of 3 rows, which become 144 bytes; at most 96"):
        rows_of(image_task(RULES), png, png, png)


def file_task(rules: FileRules) -> FileTask:
    row = (-1, rules.begin_bytes + rules.end_bytes)
    return FileTask(TensorSpec("x", Datatype.INT32, row), rules)


def test_file_is_its_first_and_last_bytes_without_white_space() -> None:
    task = file_task(FileRules(block_bytes=8, begin_bytes=4, end_bytes=4))
    assert rows_of(task, b"  abcdefghijklmn \n")[0].tolist() == [*b"abcd", *b"klmn"]
    assert rows_of(task, b" ab\n")[0].tolist() == [*b"ab\n", 256, 256, *b" ab"]
    assert rows_of(task, b"   ")[0].tolist() == [256] * 8
    with pytest.raises(InvalidRequest, match="file 0 is empty"):
        rows_of(task, b"")
