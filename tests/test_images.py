"""From the bytes of an image to pixels: every kind that is accepted, every kind that is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from offramp.bundle import Preprocessing
from offramp.engine.images import ImageLimits, decode_image, decode_images, open_images, resize_pixels
from offramp.errors import OfframpError, RequestError, TooLargeError, UnsupportedMediaError
from tests.nodes import encoded
from tests.pngs import png_that_claims

COLOUR = Preprocessing(height=6, width=8, mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocessing(height=6, width=8, mode="L", mean=(0.0,), std=(1.0,))

_MAGIC = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 "]


def noise(size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], 4)
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_of_the_right_size_and_mode_is_not_touched(mode: str) -> None:
    image = noise(mode=mode)
    found = decode_image(encoded(image), COLOUR if mode == "RGB" else GREY)
    np.testing.assert_array_equal(found.squeeze(), np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (8, 6), (800, 600)])
@pytest.mark.parametrize("preprocessing", [COLOUR, GREY])
def test_any_size_becomes_the_networks(
    kind: str, size: tuple[int, int], preprocessing: Preprocessing
) -> None:
    found = decode_image(encoded(noise(size), kind), preprocessing)
    assert found.shape == preprocessing.pixel_shape and found.dtype == np.uint8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize(("preprocessing", "target"), [(COLOUR, "RGB"), (GREY, "L")])
def test_an_opaque_png_of_any_mode_becomes_what_pillow_makes_of_it(
    mode: str, preprocessing: Preprocessing, target: str
) -> None:
    image = noise().convert(mode)
    expected = np.asarray(image.convert("RGB").convert(target))
    np.testing.assert_array_equal(decode_image(encoded(image), preprocessing).squeeze(), expected)


def test_a_cmyk_jpeg_is_converted() -> None:
    red = Image.new("RGB", (8, 6), (255, 0, 0)).convert("CMYK")
    found = decode_image(encoded(red, "JPEG"), COLOUR)
    assert found[..., 0].min() > 200 and found[..., 1].max() < 60


def test_sixteen_bits_keep_their_brightness() -> None:
    half = Image.fromarray(np.full((6, 8), 32_768, dtype=np.uint16))
    assert set(decode_image(encoded(half), GREY).ravel()) <= {127, 128}


def test_what_is_transparent_lies_over_black() -> None:
    hidden = Image.new("RGBA", (8, 6), (255, 255, 255, 0))
    assert decode_image(encoded(hidden), COLOUR).max() == 0


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_half_transparent_is_half_as_bright(mode: str) -> None:
    veiled = Image.new("RGBA", (8, 6), (200, 200, 200, 128)).convert(mode)
    found = decode_image(encoded(veiled), COLOUR)
    assert found.min() >= 100 and found.max() <= 101


def test_a_transparent_colour_of_a_photo_lies_over_black() -> None:
    image = Image.new("RGB", (8, 6), (9, 200, 99))
    assert decode_image(encoded(image, transparency=(9, 200, 99)), COLOUR).max() == 0


def test_of_two_pictures_in_one_file_the_first_is_taken() -> None:
    first, second = Image.new("RGB", (8, 6), (200, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 200))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert decode_image(data, COLOUR)[..., 0].min() > 190


def test_a_transparent_colour_of_a_palette_lies_over_black() -> None:
    image = Image.new("P", (8, 6), 1)
    image.putpalette([0, 0, 0, 255, 255, 255])
    assert decode_image(encoded(image, transparency=1), COLOUR).max() == 0


def test_a_photo_taken_upright_stands_upright() -> None:
    wide = Image.new("RGB", (80, 60))
    wide.paste((255, 255, 255), (0, 0, 40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    found = decode_image(encoded(wide, "PNG", exif=exif), COLOUR)
    assert found[0].mean() > 250 and found[-1].mean() < 5, "what was left is now on top"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise((8, 6)), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).resize((8, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_image(data, COLOUR), np.asarray(expected))


@pytest.mark.parametrize(
    "notes", [b"", b"rubbish", b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0", b"MM\0*\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_notes_do_not_spoil_a_photo(kind: str, notes: bytes) -> None:
    data = encoded(noise((40, 30)), kind, exif=b"Exif\0\0" + notes)
    np.testing.assert_array_equal(
        decode_image(data, COLOUR), decode_image(encoded(noise((40, 30)), kind), COLOUR)
    )


def test_a_large_jpeg_is_shrunk_without_a_shift() -> None:
    large = Image.linear_gradient("L").resize((2048, 1536)).convert("RGB")
    found = decode_image(encoded(large, "JPEG", quality=95), COLOUR).astype(int)
    exact = np.asarray(large.resize((8, 6), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found - exact).max() <= 4


def test_pixels_that_lie_in_memory_are_brought_to_size_alike() -> None:
    image = noise((40, 30))
    np.testing.assert_array_equal(
        resize_pixels(np.asarray(image), COLOUR), decode_image(encoded(image), COLOUR)
    )


class TestWhatIsRefused:
    @pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
    def test_other_formats(self, kind: str) -> None:
        with pytest.raises(UnsupportedMediaError, match="JPEG, PNG or WebP"):
            decode_image(encoded(noise(), kind), COLOUR)

    def test_nothing(self) -> None:
        with pytest.raises(RequestError, match="0 bytes"):
            decode_image(b"", COLOUR)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_every_image_that_breaks_off_or_is_spoilt(self, kind: str) -> None:
        whole = encoded(noise((64, 48)), kind)
        for end in range(1, len(whole) - 20, 97):
            check_refused_or_decoded(whole[:end])
            check_refused_or_decoded(whole[:end] + bytes([whole[end] ^ 0x5A]) + whole[end + 1 :])

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_half_an_image(self, kind: str) -> None:
        whole = encoded(noise((64, 48)), kind)
        with pytest.raises(RequestError, match="cannot be decoded"):
            decode_image(whole[: len(whole) // 2], COLOUR)

    @pytest.mark.parametrize("sizes", [[(8192, 6144)], [(4032, 3024)] * 3])
    def test_the_photos_of_phones_are_not(self, sizes: list[tuple[int, int]]) -> None:
        opened = open_images([png_that_claims(*size) for size in sizes])
        assert opened.num_pixels == [width * height for width, height in sizes]

    @pytest.mark.parametrize("side", [8_000, 30_000, 2_000_000])
    def test_an_image_that_claims_too_many_pixels(self, side: int) -> None:
        with pytest.raises((TooLargeError, RequestError), match="pixels"):
            decode_image(png_that_claims(side, side), COLOUR)

    @pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (100, 2_001)])
    def test_a_strip(self, size: tuple[int, int]) -> None:
        with pytest.raises(RequestError, match="crop it first"):
            decode_image(encoded(noise(size)), COLOUR)

    def test_limits_are_the_callers_and_may_be_reached(self) -> None:
        exact = ImageLimits(max_pixels=48, max_aspect_ratio=8 / 6)
        assert decode_image(encoded(noise()), COLOUR, limits=exact).shape == COLOUR.pixel_shape
        with pytest.raises(TooLargeError, match="8 x 6 pixels takes the request over its limit of 47"):
            decode_image(encoded(noise()), COLOUR, limits=ImageLimits(max_pixels=47))
        with pytest.raises(RequestError, match=r"more than 1\.3 times as long"):
            decode_image(encoded(noise()), COLOUR, limits=ImageLimits(max_aspect_ratio=1.3))

    def test_the_images_of_a_request_share_its_limit(self) -> None:
        with pytest.raises(TooLargeError, match=r"image 2 of 2: .* over its limit of 95 pixels"):
            decode_images([encoded(noise())] * 2, COLOUR, limits=ImageLimits(max_pixels=95))

    def test_the_one_of_several_that_is_no_image_is_named(self) -> None:
        with pytest.raises(UnsupportedMediaError, match=r"image 2 of 3: 5 bytes"):
            decode_images([encoded(noise()), b"hello", encoded(noise())], COLOUR)

    @given(
        st.binary(max_size=400),
        st.sampled_from(_MAGIC),
    )
    def test_rubbish(self, data: bytes, magic: bytes) -> None:
        check_refused_or_decoded(magic + data)


def check_refused_or_decoded(data: bytes) -> None:
    try:
        found: NDArray[np.uint8] = decode_image(data, COLOUR)
    except OfframpError:
        return
    assert found.shape == COLOUR.pixel_shape
