"""Pictures' files to pixels. The only importer of Pillow, which is loaded where a model needs it. Pure.

The files are strangers': what a file's head says of its size is checked before any pixel is made.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np

from capamesh.node.repository.task_rules import Channels, Fit
from capamesh.node.runtime.tasks.task import PackageMissing
from capamesh.protocol.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

MAX_SCANS: Final = 100
"""The most scans of a JPEG (encoders write 10; measured: each goes over all pixels, 7 ms of 16 million, and may have 31 bytes)."""
_JPEG: Final = b"\xff\xd8"
_SCAN: Final = b"\xff\xda"
"""Marks the beginning of a scan, and stands nowhere else in what a scan holds."""
_MODES: Final = {Channels.RGB: "RGB", Channels.GREY: "L"}
_TRANSPARENT: Final = frozenset({"LA", "PA", "RGBA", "La", "RGBa"})
_WHITE: Final = (255, 255, 255, 255)


def check_installed() -> None:
    """Read Pillow's decoders in; raise `PackageMissing` where it is not there."""
    try:
        from PIL import Image  # noqa: PLC0415 - a node without pictures goes without
    except ImportError as exc:
        raise PackageMissing("pillow") from exc
    Image.init()


def decoded(
    raw: bytes,
    *,
    size: tuple[int, int],
    channels: Channels,
    fit: Fit,
    formats: tuple[str, ...],
    max_pixels: int,
    what: str,
) -> npt.NDArray[np.uint8]:
    """Return a picture's pixels in the shape [height, width, channels] at `size`, which is (width, height). Blocks.

    It is turned as its camera was; what is transparent is white; of several pictures in one file the first is taken.
    `what` says in errors which picture it is.

    Raises:
        InvalidRequest: It is no picture of one of the `formats`, or a broken one.
        TooLarge: It has more than `max_pixels`, or goes over them too often.
    """
    if raw.startswith(_JPEG) and raw.count(_SCAN) > MAX_SCANS:
        raise TooLarge(f"{what} has more than {MAX_SCANS} scans; save it anew")
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - see `check_installed`

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stranger's odd file is no news for the operator
            with Image.open(io.BytesIO(raw), formats=formats) as picture:
                _check_size(picture.size, max_pixels, what)
                pixels = np.asarray(_fitted(picture, size, channels, fit), np.uint8)
    except (TooLarge, MemoryError):
        raise
    except Image.DecompressionBombError as exc:
        raise TooLarge(f"{what} has too many pixels; at most {max_pixels} are taken") from exc
    except UnidentifiedImageError as exc:
        raise InvalidRequest(
            f"{what}, of {len(raw)} bytes, is no picture of a format that is taken: {', '.join(formats)}"
        ) from exc
    except Exception as exc:  # Pillow's decoders raise whatever their readers meet
        raise InvalidRequest(f"{what} is a broken picture: {str(exc)[:200]}") from exc
    return pixels.reshape(size[1], size[0], channels.numbers)


def _check_size(size: tuple[int, int], max_pixels: int, what: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLarge(
            f"{what} has {width} x {height} pixels; at most {max_pixels} are taken: send it smaller"
        )


def _fitted(
    picture: Image.Image, size: tuple[int, int], channels: Channels, fit: Fit
) -> Image.Image:
    from PIL import Image, ImageOps  # noqa: PLC0415 - see `check_installed`

    mode = _MODES[channels]
    if picture.format == "JPEG":
        picture.draft(mode, (2 * size[0], 2 * size[1]))  # no finer than needed: 4 times as fast
    turned: Image.Image = ImageOps.exif_transpose(picture)
    if turned.mode in _TRANSPARENT or "transparency" in turned.info:
        above = turned.convert("RGBA")
        below = Image.new("RGBA", above.size, _WHITE)
        turned = Image.alpha_composite(below, above)
    turned = turned.convert(mode)
    if fit is Fit.CROP:
        return ImageOps.fit(turned, size, Image.Resampling.BILINEAR)
    return turned.resize(size, Image.Resampling.BILINEAR)
