"""What a bundle's preprocessing makes of a photo: the pixels of torchvision's, timm's and transformers' pipelines."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from offramp.bundle import Preprocessing
from offramp.bundle.in_words import photo_in_words, preprocessing_in_words
from offramp.engine.images import decode_crop, decode_image, photo_size, resize_pixels
from offramp.errors import ConfigError
from tests.builders import manifest_with
from tests.nodes import encoded

Pixels = NDArray[np.uint8]
PLAIN: dict[str, Any] = {"mode": "RGB", "mean": (0.0,) * 3, "std": (1.0,) * 3}
SIDE = {"height": 14, "width": 14}
SIZES = [(40, 30), (30, 40), (33, 17), (17, 61), (16, 16), (9, 7), (160, 90)]


def photo(width: int, height: int) -> Pixels:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 3 + 2, width // 3 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 1, 1 - np.abs(x), 0)


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(x), -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]
KERNELS: dict[str, Kernel] = {"bilinear": triangle, "bicubic": cubic, "lanczos": lanczos, "area": box}


def resampled(pixels: Pixels, width: int, height: int, kernel: Kernel, *, down_first: bool = False) -> Pixels:
    """Antialiased resampling, computed from its definition; it is rounded between one direction and the other."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if down_first:
        turned = resampled(pixels.transpose(1, 0, 2), height, width, kernel)
        return turned.transpose(1, 0, 2)
    across = np.einsum("ow,hwc->hoc", weights(pixels.shape[1], width, kernel), pixels)
    down = np.einsum("oh,hwc->owc", weights(pixels.shape[0], height, kernel), levels(across))
    return levels(down)


def levels(values: NDArray[np.float64]) -> Pixels:
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)


def weights(source: int, target: int, kernel: Kernel) -> NDArray[np.float64]:
    scale = source / target
    centres = (np.arange(target) + 0.5) * scale
    found = kernel((np.arange(source)[None] - centres[:, None] + 0.5) * (1 / max(scale, 1.0)))
    total: NDArray[np.float64] = found.sum(axis=1, keepdims=True)
    return found / total


def shorter_side(pixels: Pixels, side: int, crop: int, kernel: Kernel, *, down_first: bool) -> Pixels:
    """torchvision: Resize(side), CenterCrop(crop)."""
    height, width = pixels.shape[:2]
    is_tall = width <= height
    size = (side, int(side * height / width)) if is_tall else (int(side * width / height), side)
    whole = resampled(pixels, *size, kernel, down_first=down_first)
    top, left = (int(round((length - crop) / 2.0)) for length in whole.shape[:2])  # noqa: RUF046 - as it is there
    return whole[top : top + crop, left : left + crop]


def check_alike(found: Pixels, *expected: Pixels) -> None:
    """Check that pixels are within a level of what is expected; which direction comes first is up to Pillow."""
    assert {one.shape for one in expected} == {found.shape}
    assert min(np.abs(found.astype(int) - one.astype(int)).max() for one in expected) <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", sorted(KERNELS))
def test_a_shorter_side_and_a_centre_crop_are_torchvisions(interpolation: str, size: tuple[int, int]) -> None:
    crops = Preprocessing(
        **SIDE, **PLAIN, resize="shorter_side", resize_to=16, interpolation=interpolation, jpeg_margin=0
    )
    pixels = photo(*size)
    check_alike(
        decode_image(encoded(Image.fromarray(pixels)), crops),
        *(shorter_side(pixels, 16, 14, KERNELS[interpolation], down_first=first) for first in (False, True)),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", sorted(KERNELS))
def test_the_stretch_takes_all_of_a_photo_to_the_size(interpolation: str, size: tuple[int, int]) -> None:
    stretches = Preprocessing(height=11, width=13, **PLAIN, interpolation=interpolation)
    pixels = photo(*size)
    check_alike(
        decode_image(encoded(Image.fromarray(pixels)), stretches),
        *(resampled(pixels, 13, 11, KERNELS[interpolation], down_first=first) for first in (False, True)),
    )


@pytest.mark.parametrize(("size", "inner"), [((40, 30), (14, 10)), ((30, 40), (10, 14)), ((33, 17), (14, 7))])
def test_a_photo_that_fits_is_padded_evenly(size: tuple[int, int], inner: tuple[int, int]) -> None:
    fits = Preprocessing(**SIDE, **PLAIN, resize="fit", pad_color=(9, 8, 7))
    pixels, (width, height) = photo(*size), inner
    expected = np.full((14, 14, 3), (9, 8, 7), np.uint8)
    top, left = (14 - height) // 2, (14 - width) // 2
    expected[top : top + height, left : left + width] = resampled(pixels, width, height, triangle)
    check_alike(decode_image(encoded(Image.fromarray(pixels)), fits), expected)


def test_the_pixels_are_those_that_were_written_down() -> None:
    # Grey levels 0, 10, …, 230 in 4 rows of 6; Resize(3, bilinear, antialiased), CenterCrop(2); worked out by hand.
    ramp = (np.arange(24, dtype=np.uint8) * 10).reshape(4, 6)
    crops = Preprocessing(
        height=2, width=2, mode="L", mean=(0.0,), std=(1.0,), resize="shorter_side", resize_to=3
    )
    check_alike(resize_pixels(ramp, crops).squeeze(), np.array([[36, 50], [108, 122]], np.uint8))


def test_nearest_takes_one_pixel_of_the_photo() -> None:
    pixels = photo(41, 31)
    nearest = Preprocessing(
        **SIDE, **PLAIN, resize="shorter_side", resize_to=16, interpolation="nearest", jpeg_margin=0
    )
    whole = Image.fromarray(pixels).resize((21, 16), Image.Resampling.NEAREST)
    expected = np.asarray(whole)[1:15, 4:18]
    np.testing.assert_array_equal(resize_pixels(pixels, nearest), expected)


def test_what_is_transparent_lies_over_the_background() -> None:
    hidden = encoded(Image.new("RGBA", (20, 20), (255, 255, 255, 0)))
    over = Preprocessing(**SIDE, **PLAIN, background=(1, 2, 3))
    assert {tuple(pixel) for pixel in decode_image(hidden, over).reshape(-1, 3)} == {(1, 2, 3)}


def test_a_jpeg_is_decoded_at_its_full_size_unless_a_margin_says_otherwise() -> None:
    data = encoded(Image.fromarray(photo(331, 247)), "JPEG", quality=95)
    whole = Preprocessing(**SIDE, **PLAIN, resize="shorter_side", resize_to=16, jpeg_margin=0)
    expected = decode_image(encoded(Image.open(io.BytesIO(data))), whole)  # as PNG, which has no scale
    np.testing.assert_array_equal(decode_image(data, whole), expected)
    scaled = whole.model_copy(update={"jpeg_margin": 1})
    assert (decode_image(data, scaled) != expected).any()
    # 16 times 15 is more than half of the shorter side.
    margin = whole.model_copy(update={"jpeg_margin": 15})
    np.testing.assert_array_equal(decode_image(data, margin), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_taken_upright_is_cropped_as_it_is_seen(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(photo(90, 50))
    crops = Preprocessing(height=20, width=10, **PLAIN, resize="shorter_side", resize_to=20, jpeg_margin=2)
    data = encoded(lying, kind, exif=exif)
    assert photo_size(data) == (50, 90)
    upright = encoded(Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(decode_image(data, crops), decode_image(upright, crops))


class TestAPartOfAPhoto:
    def test_all_of_it_is_the_stretch(self) -> None:
        data = encoded(Image.fromarray(photo(40, 30)))
        stretches = Preprocessing(**SIDE, **PLAIN)
        np.testing.assert_array_equal(
            decode_crop(data, stretches, (0, 0, 1, 1)), decode_image(data, stretches)
        )

    def test_it_is_cut_out_of_the_upright_photo(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise to view: the left side is on top
        lying = Image.new("RGB", (800, 600))
        lying.paste((255, 0, 0), (0, 0, 400, 600))
        data = encoded(lying, "JPEG", exif=exif, quality=95)
        upper = decode_crop(data, Preprocessing(**SIDE, **PLAIN), (0.1, 0.05, 0.9, 0.4))
        assert upper[..., 0].min() > 245 and upper[..., 1].max() < 10

    @pytest.mark.parametrize("part", [(0, 0, 0, 1), (0.5, 0, 0.4, 1), (0, 0, 1.1, 1), (0, -0.1, 1, 1)])
    def test_what_is_no_part_is_refused(self, part: tuple[float, float, float, float]) -> None:
        with pytest.raises(ConfigError, match="not a part of the picture"):
            decode_crop(encoded(Image.fromarray(photo(9, 9))), Preprocessing(**SIDE, **PLAIN), part)


class TestTheBundlesId:
    def test_a_bundle_from_before_keeps_its_id(self) -> None:
        assert manifest_with([True, True]).bundle_id == "scripted-e774859b1b2b"

    @pytest.mark.parametrize(
        "change",
        [
            {"resize": "shorter_side"},
            {"resize_to": (2, 2)},
            {"interpolation": "area"},
            {"background": 255},
            {"resize": "fit", "pad_color": 9},
            {"jpeg_margin": 0},
        ],
    )
    def test_it_follows_everything_that_changes_pixels(self, change: dict[str, Any]) -> None:
        changed = Preprocessing(height=1, width=1, mode="L", mean=(0.0,), std=(1.0,), **change)
        assert (
            manifest_with([True, True], preprocessing=changed).bundle_id
            != manifest_with([True, True]).bundle_id
        )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"resize": "shorter_side", "resize_to": 12}, "make resize_to at least 14"),
        ({"resize": "shorter_side", "resize_to": (16, 16)}, "give the shorter one"),
        ({"resize_to": 16}, r"write \(16, 16\)"),
        ({"resize_to": (16, 12)}, "less than the crop"),
        ({"pad_color": 5}, "make resize 'fit'"),
        ({"mode": "L", "mean": (0.0,), "std": (1.0,), "resize": "fit", "pad_color": (1, 2, 3)}, "one number"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Preprocessing(**{**SIDE, **PLAIN, **fields})


def test_it_is_told_in_words() -> None:
    crops = Preprocessing(**SIDE, **PLAIN, resize="shorter_side", resize_to=16, interpolation="bicubic")
    assert preprocessing_in_words(crops).startswith(
        "shorter side resized to 16 pixels (bicubic), the central 14 x 14 kept, RGB"
    )
    assert photo_in_words(crops, (40, 30)) == (
        "40 x 30 pixels, resized to 21 x 16; cut off: 33.3% of its width and 12.5% of its height"
    )
    assert "stretched 1.33 times in its height" in photo_in_words(Preprocessing(**SIDE, **PLAIN), (40, 30))
    padded = Preprocessing(**SIDE, **PLAIN, resize="fit", pad_color=255)
    assert "padded with white" in preprocessing_in_words(padded)
    assert photo_in_words(padded, (40, 30)).endswith("nothing cut off; padded to 14 x 14")
