"""Decoding of image files with Pillow: one canonical form for pictures, and class numbers for masks.

A picture becomes (H, W, 3) uint8 RGB. Its EXIF orientation is applied. Gray, palette, CMYK and other modes are
converted, 16 bits become 8 by rounding, and transparency is blended with white. Colour profiles are not applied. An
animation and a file of several pages are refused, except the JPEG files of phones that hold further versions of one
picture. Formats are JPEG, PNG, WebP, GIF, BMP, TIFF and PPM, recognised by content and not by name.

The size in the header is checked before anything is decoded, so a small file cannot claim memory beyond
``MAX_PIXELS``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485
"""Pixels of an image, the bound from which Pillow warns: 256 MiB as RGB."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""Ends of the names of image files, in lower case."""
ORIENTATION = 0x0112
"""EXIF tag of the orientation; from 5 on, height and width are exchanged."""
PAGED = ("GIF", "WEBP", "PNG", "TIFF")
"""Formats whose frames are an animation or pages."""
IGNORED_16 = 65_535
"""Value of ignored pixels in masks of 16 bits."""

Pixels = NDArray[np.uint8]
Value = TypeVar("Value")


class Undecodable(Exception):
    """An image that cannot be decoded; the message says why."""


def decode_image(data: bytes) -> Pixels:
    """Return the picture in the bytes of an image file, (H, W, 3) uint8.

    Args:
        data: Bytes of the file.

    Raises:
        Undecodable: The bytes are no image, are truncated, or hold an animation or too many pixels.
        InvalidArgument: Pillow is not installed.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2), 7).save(file, "PNG")
        >>> decode_image(file.getvalue()).shape
        (2, 4, 3)
    """
    return _with_image(data, _as_rgb)


def image_size(data: bytes) -> tuple[int, int]:
    """Return height and width of the picture in the bytes of an image file, from its header alone.

    Args:
        data: Bytes of the file.

    Raises:
        Undecodable: As ``decode_image``, as far as the header shows it.
        InvalidArgument: Pillow is not installed.
    """
    return _with_image(data, _oriented_size)


def decode_mask(data: bytes) -> NDArray[np.int64]:
    """Return the class numbers in the bytes of a mask, (H, W) int64, with -1 for ignored pixels.

    A mask is a gray or palette image without loss; 255 in 8 bits and 65,535 in 16 bits are ignored pixels.

    Args:
        data: Bytes of the file.

    Raises:
        Undecodable: The bytes are no image, are truncated, or hold colours.
        InvalidArgument: Pillow is not installed.
    """
    return _with_image(data, _as_classes)


def _with_image(data: bytes, use: Callable[[Any], Value]) -> Value:
    """Return the result of a function of the opened image, with every error of Pillow as Undecodable."""
    try:
        from PIL import Image
    except ImportError:
        raise InvalidArgument("images: Pillow is not installed. Run pip install 'softlabels[vision]'") from None
    if not data:
        raise Undecodable("the file is empty")
    # Decoders raise errors of many kinds, and a program may turn warnings into errors.
    errors = (
        OSError, ValueError, SyntaxError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError,
        RuntimeError, struct.error, Warning, Image.DecompressionBombError,
    )  # fmt: skip
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Undecodable(f"{width:,} x {height:,} pixels, more than {MAX_PIXELS:,}")
            frames = getattr(image, "n_frames", 1)
            if image.format in PAGED and frames > 1:
                raise Undecodable(f"an animation or document of {frames} frames")
            return use(image)
    except Undecodable:
        raise
    except errors as error:
        bomb = isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
        reason = f"more than {MAX_PIXELS:,} pixels" if bomb else _reason(data, error)
        raise Undecodable(reason) from error


def _reason(data: bytes, error: BaseException) -> str:
    """Return why an image cannot be decoded, without addresses of Python objects."""
    text = str(error)
    if "cannot identify image file" in text:
        start = data[:16].decode("ascii", errors="replace")
        return f"not an image of a known format, starts with {start!r}"
    return text or type(error).__name__


def _oriented_size(image: Image) -> tuple[int, int]:
    width, height = image.size
    return (width, height) if image.getexif().get(ORIENTATION, 1) in {5, 6, 7, 8} else (height, width)


def _as_rgb(image: Image) -> Pixels:
    """Return an opened image as RGB."""
    from PIL import Image as Images
    from PIL import ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > IGNORED_16:
            raise Undecodable("whole numbers beyond 16 bits")
        gray = ((values * 255 + IGNORED_16 // 2) // IGNORED_16).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "F":
        raise Undecodable("pixels of floating point")
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "La", "RGBa"}:
        image = image.convert("RGBA")
        white = Images.new("RGBA", image.size, "white")
        image = Images.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _as_classes(image: Image) -> NDArray[np.int64]:
    """Return an opened mask as class numbers."""
    if image.format in {"JPEG", "MPO"}:
        raise Undecodable("a mask in JPEG, whose compression changes class numbers")
    if image.mode not in {"1", "L", "P", "I;16", "I;16B", "I;16L", "I"}:
        raise Undecodable(f"a mask of mode {image.mode}; expected gray or palette")
    image.load()
    classes = np.asarray(image).astype(np.int64)
    if image.mode != "1":
        classes[classes == (255 if image.mode in {"L", "P"} else IGNORED_16)] = -1
    return classes
