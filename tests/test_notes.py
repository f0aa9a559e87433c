"""What comes with a picture in its file: a transparent colour, text, a colour profile; large, damaged, at the end."""

from __future__ import annotations

import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Preprocessing
from offramp.engine.images import decode_image
from offramp.errors import RequestError
from tests.nodes import encoded
from tests.pngs import chunk, png_of
from tests.test_images import COLOUR, noise


class TestPng:
    """What Pillow makes of a PNG is not always the picture that is in it."""

    WHITE_IS_CLEAR = np.array([[0, 255, 85], [255, 170, 0]])

    @pytest.mark.parametrize("depth", [2, 4, 8, 16])
    def test_a_transparent_grey_lies_over_black_at_any_bit_depth(self, depth: int) -> None:
        largest = 2**depth - 1
        data = png_of(self.WHITE_IS_CLEAR * largest // 255, depth, colour=0, clear=struct.pack(">H", largest))
        preprocessing = Preprocessing(height=2, width=3, mode="L", mean=(0.0,), std=(1.0,))
        expected = np.where(self.WHITE_IS_CLEAR == 255, 0, self.WHITE_IS_CLEAR)
        np.testing.assert_array_equal(decode_image(data, preprocessing).squeeze(), expected)

    @pytest.mark.parametrize("depth", [8, 16])
    def test_a_transparent_colour_lies_over_black_at_any_bit_depth(self, depth: int) -> None:
        largest = 2**depth - 1
        colours = np.stack([self.WHITE_IS_CLEAR, np.full((2, 3), 255), np.full((2, 3), 85)], axis=-1)
        clear = struct.pack(">HHH", largest, largest, largest // 3)
        data = png_of(colours * largest // 255, depth, colour=2, clear=clear)
        preprocessing = COLOUR.model_copy(update={"height": 2, "width": 3})
        expected = np.where(self.WHITE_IS_CLEAR[..., None] == 255, 0, colours)
        np.testing.assert_array_equal(decode_image(data, preprocessing), expected)

    def test_grey_of_16_bits_may_be_half_transparent(self) -> None:
        data = png_of(np.full((6, 8, 2), (40_000, 32_768)), 16, colour=4)
        assert set(decode_image(data, COLOUR).ravel()) == {40_000 // 256 * 128 // 255}

    @pytest.mark.parametrize("place", ["before the pixels", "behind the pixels"])
    @pytest.mark.parametrize(
        "note",
        [
            ("zTXt", b"notes\0\0" + zlib.compress(b"x" * 2_000_000)),
            ("iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
            ("iCCP", b"profile\0\0" + zlib.compress(b"x" * 2_000_000)),
            ("tEXt", b"notes\0" + b"x" * 2_000_000),
            ("eXIf", b"MM\0*" + b"x" * 200_000),
            ("gAMA", b"\0"),
            ("tIME", b"damaged"),
        ],
        ids=lambda note: note[0],
    )
    def test_its_notes_do_not_matter(self, note: tuple[str, bytes], place: str) -> None:
        plain = encoded(noise((40, 30)))
        added = chunk(note[0].encode(), note[1])
        data = (
            plain[:33] + added + plain[33:]
            if place.startswith("before")
            else plain[:-12] + added + plain[-12:]
        )
        np.testing.assert_array_equal(decode_image(data, COLOUR), decode_image(plain, COLOUR))

    def test_many_notes_that_pillow_reads_only_up_to_a_total_do_not_matter(self) -> None:
        plain = encoded(noise((40, 30)))
        note = chunk(b"zTXt", b"notes\0\0" + zlib.compress(b"x" * 1_000_000))
        np.testing.assert_array_equal(
            decode_image(plain[:33] + note * 80 + plain[33:], COLOUR), decode_image(plain, COLOUR)
        )

    def test_a_note_with_a_wrong_checksum_does_not_matter(self) -> None:
        plain = encoded(noise((40, 30)))
        note = bytearray(chunk(b"tEXt", b"notes\0hello"))
        note[-1] ^= 1
        data = plain[:33] + bytes(note) + plain[33:]
        np.testing.assert_array_equal(decode_image(data, COLOUR), decode_image(plain, COLOUR))

    @pytest.mark.parametrize("packed", [False, True])
    def test_the_orientation_counts_beside_large_notes(self, packed: bool) -> None:
        xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
        text = b"\1\0\0\0" + zlib.compress(xmp) if packed else b"\0\0\0\0" + xmp
        plain = encoded(noise((8, 6)))
        notes = chunk(b"iTXt", b"XML:com.adobe.xmp\0" + text)
        notes += chunk(b"zTXt", b"notes\0\0" + zlib.compress(b"x" * 2_000_000))
        turned = encoded(noise((8, 6)).transpose(Image.Transpose.ROTATE_270))
        np.testing.assert_array_equal(
            decode_image(plain[:33] + notes + plain[33:], COLOUR), decode_image(turned, COLOUR)
        )

    def test_no_note_is_unpacked_only_to_be_thrown_away(self) -> None:
        profile = chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x" * 1_000_000))
        plain = encoded(noise((40, 30)))
        started = time.process_time()
        decode_image(plain[:33] + profile * 500 + plain[33:], COLOUR)
        assert time.process_time() - started < 1, "unpacked, they are 500 MB"

    def test_chunks_without_end_are_refused(self) -> None:
        plain = encoded(noise())
        with pytest.raises(RequestError, match="more than 50000 chunks"):
            decode_image(plain[:33] + chunk(b"tEXt", b"a\0") * 60_000 + plain[33:], COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "notes", [{"icc_profile": b"x" * 3_000_000}, {"exif": b"Exif\0\0MM\0*" + b"x" * 60_000}]
)
def test_large_notes_of_other_formats_do_not_matter_either(kind: str, notes: dict[str, bytes]) -> None:
    np.testing.assert_array_equal(
        decode_image(encoded(noise((40, 30)), kind, **notes), COLOUR),
        decode_image(encoded(noise((40, 30)), kind), COLOUR),
    )
