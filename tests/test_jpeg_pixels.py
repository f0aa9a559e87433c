"""JPEGs that libjpeg-turbo decodes directly: the pixels of Pillow, and its judgement wherever anything is odd."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from offramp.bundle import Preprocessing
from offramp.engine.images import decode_image
from offramp.engine.images.files import read_header
from offramp.engine.images.turbo import decoded
from offramp.errors import RequestError

SIZES = [(32, 32), (33, 31), (16, 17), (348, 261), (7, 90), (1, 1)]


def picture(size: tuple[int, int]) -> Image.Image:
    """Colours that change from place to place, with some noise."""
    generator = np.random.default_rng(size[0])
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + generator.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(data: bytes, at_least: tuple[int, int] | None) -> np.ndarray:
    image = JpegImageFile(io.BytesIO(data))
    if at_least:
        image.draft(None, at_least)
    return np.asarray(image)


@pytest.mark.parametrize("at_least", [None, (4, 4), (40, 30), (100, 100)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 20}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_pixels_are_those_of_pillow(
    subsampling: str, options: dict[str, object], mode: str, at_least: tuple[int, int] | None
) -> None:
    for size in SIZES:
        data = jpeg(picture(size).convert(mode), subsampling=subsampling, **options)
        found = decoded(data, read_header(data), at_least)
        if found is None:
            assert at_least and min(size) < 16, "only what is scaled down and tiny is left to Pillow"
            continue
        np.testing.assert_array_equal(found, by_pillow(data, at_least))


def test_colours_that_are_not_in_ycbcr_are_right() -> None:
    image = picture((32, 32))
    plain = jpeg(image, keep_rgb=True, quality=95)
    found = decoded(plain, read_header(plain), None)
    assert found is not None
    np.testing.assert_array_equal(found, by_pillow(plain, None))
    assert np.abs(found.astype(int) - np.asarray(image)).mean() < 4, "its colours are the picture's"
    cmyk = jpeg(image.convert("CMYK"))
    assert decoded(cmyk, read_header(cmyk), None) is None


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_what_breaks_off_is_left_to_pillow_which_refuses_it(kept: float) -> None:
    whole = jpeg(picture((64, 64)))
    data = whole[: int(kept * len(whole))]
    colour = Preprocessing(height=64, width=64, mode="RGB", mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(RequestError, match="cannot be decoded"):
        decode_image(data, colour)


def test_a_picture_of_another_size_than_its_header_said_takes_no_memory_for_it() -> None:
    data = jpeg(picture((640, 640)))
    header = read_header(data)
    small = type(header)("JPEG", 8, 8, front=header.front, rest=header.rest, components=3)
    assert decoded(data, small, None) is None


def test_a_large_picture_is_left_to_pillow() -> None:
    data = jpeg(picture((1200, 1000)))
    assert decoded(data, read_header(data), None) is None
    assert decoded(data, read_header(data), (224, 224)) is not None, "unless a part of its size is enough"
