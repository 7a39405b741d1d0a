"""Decoding of image files: one canonical form, and a reason for what cannot be decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from softlabels.sources.image_files import Undecodable, decode_image, decode_mask, image_size

RED = np.zeros((4, 6, 3), np.uint8) + np.array([200, 10, 30], np.uint8)


def encoded(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
def test_formats_without_loss_give_the_pixels(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(Image.fromarray(RED), file_format, **options)
    np.testing.assert_array_equal(decode_image(data), RED)
    assert image_size(data) == (4, 6)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((2, 3), 77, np.uint8)), (77, 77, 77)),
        (Image.fromarray(np.full((2, 3), 30_000, np.uint16)), (117, 117, 117)),
        (Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE), (200, 10, 30)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.new("LA", (3, 2), (100, 255)), (100, 100, 100)),
        (Image.new("RGBA", (3, 2), (200, 10, 30, 0)), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (200, 10, 30, 255)), (200, 10, 30)),
    ],
    ids=["gray", "16 bits", "palette", "bits", "gray alpha", "transparent", "opaque"],
)
def test_every_mode_becomes_rgb(image, expected):
    pixels = decode_image(encoded(image))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*image.size[::-1], 3)
    assert (pixels == expected).all()


def test_cmyk_jpeg_becomes_rgb():
    data = encoded(Image.fromarray(np.repeat(RED, 8, axis=0).repeat(8, axis=1)).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(decode_image(data).astype(int).mean(axis=(0, 1)) - RED[0, 0]).max() < 6


def test_a_palette_with_transparency_is_blended_with_white():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 30, 0, 0, 0])
    image.putpixel((1, 0), 1)
    pixels = decode_image(encoded(image, "PNG", transparency=0))
    assert pixels.tolist() == [[[255, 255, 255], [0, 0, 0]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_image(encoded(image, "PNG", exif=exif))
    upright = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].T, 8: np.rot90,
    }[orientation](np.asarray(image))  # fmt: skip
    np.testing.assert_array_equal(pixels[..., 0], upright)
    assert image_size(encoded(image, "PNG", exif=exif)) == upright.shape


PHOTO = encoded(Image.effect_noise((64, 48), 60).convert("RGB"), "JPEG")
FRAMES = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"just a text, with the name of a picture", "not an image of a known format, starts with 'just a text"),
        (PHOTO[: len(PHOTO) // 2], "truncated"),
        (PHOTO[:30], "not an image|[Tt]runcated|cannot|[Bb]roken"),
        (png_header(30_000, 30_000), "more than 89,478,485"),
        (png_header(2**31 - 1, 2**31 - 1), "more than 89,478,485|pixels"),
        (png_header(64, 64), "truncated|not enough|incomplete|Truncated"),
        (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "animation or document of 2 frames"),
        (encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "animation or document of 2 frames"),
        (encoded(Image.new("F", (3, 2)), "TIFF"), "pixels of floating point"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    ],
)
def test_what_cannot_be_decoded_has_a_reason(data, reason):
    with pytest.raises(Undecodable, match=reason):
        decode_image(data)


def test_damaged_files_are_decoded_or_have_a_reason():
    """Flipped and cut bytes at many places, in every format: a picture or Undecodable, never another error."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8))
    outcomes = set()
    for file_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        data = encoded(picture, file_format)
        for _ in range(60):
            damaged = bytearray(data)
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            damaged = damaged[: rng.integers(1, len(damaged) + 1)] if rng.random() < 0.5 else damaged
            try:
                assert decode_image(bytes(damaged)).shape[2] == 3
                outcomes.add("decoded")
            except Undecodable:
                outcomes.add("refused")
    assert outcomes == {"decoded", "refused"}


def test_phones_store_several_versions_in_one_jpeg_whose_first_counts():
    data = encoded(Image.fromarray(RED), "MPO", save_all=True, append_images=[Image.new("RGB", (2, 2))])
    assert decode_image(data).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.array([[0, 7, 255]], np.uint8)), [0, 7, -1]),
        (Image.fromarray(np.array([[0, 700, 65_535]], np.uint16)), [0, 700, -1]),
        (Image.frombytes("1", (3, 1), b"\x60"), [0, 1, 1]),
    ],
    ids=["8 bits", "16 bits", "bits"],
)
def test_masks_are_class_numbers_with_ignored_pixels(image, expected):
    assert decode_mask(encoded(image)).tolist() == [expected]


def test_a_palette_mask_holds_class_numbers_and_not_colours():
    image = Image.new("P", (3, 1))
    image.putpalette(list(range(256)) * 3)
    image.putpixel((1, 0), 1)
    image.putpixel((2, 0), 255)
    assert decode_mask(encoded(image)).tolist() == [[0, 1, -1]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(PHOTO, "a mask in JPEG"), (encoded(Image.fromarray(RED)), "a mask of mode RGB"), (b"x", "not an image")],
)
def test_colours_are_no_mask(data, reason):
    with pytest.raises(Undecodable, match=reason):
        decode_mask(data)
