"""Files that are small, and work for seconds or memory by the gigabyte if they are opened as others are."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.engine.images import decode_image, open_images, photo_size
from offramp.errors import RequestError
from tests.nodes import encoded
from tests.pngs import chunk
from tests.test_images import COLOUR, noise

# What the event loop may be kept from everything else, in seconds of processor time.
_AT_MOST_S = 0.1


def with_notes(notes: bytes, kind: int = 0xE1, data: bytes | None = None) -> bytes:
    """A JPEG with a segment of notes."""
    data = data or encoded(noise(), "JPEG")
    return data[:2] + struct.pack(">BBH", 0xFF, kind, len(notes) + 2) + notes + data[2:]


def with_scans(count: int) -> bytes:
    """A progressive JPEG that goes on to repeat its last scan."""
    whole = encoded(noise((64, 48)), "JPEG", progressive=True)
    scan = whole[whole.rfind(b"\xff\xc4") : -2]
    return whole[:-2] + scan * count + b"\xff\xd9"


def check_quick(data: bytes) -> None:
    """Reading the header takes next to no time, whatever it says."""
    started = time.process_time()
    try:
        open_images([data])
    except RequestError:
        pass
    finally:
        assert time.process_time() - started < _AT_MOST_S


class TestJpeg:
    def test_one_that_repeats_a_scan_without_end_is_refused_before_it_is_decoded(self) -> None:
        started = time.process_time()
        with pytest.raises(RequestError, match="goes over its pixels more than 100 times"):
            decode_image(with_scans(20_000), COLOUR)
        assert time.process_time() - started < _AT_MOST_S

    def test_its_scans_are_counted_where_small_photos_are_decoded_at_once(self) -> None:
        assert open_images([with_scans(1)]).is_light
        many = encoded(noise((500, 500)), "JPEG", progressive=True)
        assert open_images([many]).is_light
        assert not open_images([with_notes(b"\xff\xda" * 9, data=many)[:-2] + b"\xff\xda" * 20]).is_light

    @pytest.mark.parametrize("place", ["notes", "between scans", "behind the end"])
    def test_only_real_scans_count(self, place: str) -> None:
        whole = encoded(noise((64, 48)), "JPEG", progressive=True)
        looks_like_scans = b"\xff\xda" * 500
        segment = struct.pack(">HH", 0xFFFE, len(looks_like_scans) + 2) + looks_like_scans
        at = {"notes": 2, "between scans": whole.rfind(b"\xff\xc4"), "behind the end": len(whole)}[place]
        data = whole[:at] + (looks_like_scans if at == len(whole) else segment) + whole[at:]
        np.testing.assert_array_equal(decode_image(data, COLOUR), decode_image(whole, COLOUR))

    @pytest.mark.parametrize("filling", [b"\xff\xfe\0\2", b"\xff\xd0", b"\0", b"\xff", b"\xff\0"])
    def test_millions_of_parts_before_its_pixels_are_refused_at_once(self, filling: bytes) -> None:
        plain = encoded(noise(), "JPEG")
        data = plain[:2] + filling * (9_000_000 // len(filling)) + plain[2:]
        check_quick(data)
        with pytest.raises(RequestError):
            open_images([data])

    def test_some_junk_between_its_segments_does_not_matter(self) -> None:
        plain = encoded(noise(), "JPEG")
        data = plain[:20] + b"\xff" * 30 + bytes(5000) + plain[20:]
        np.testing.assert_array_equal(decode_image(data, COLOUR), decode_image(plain, COLOUR))

    @pytest.mark.parametrize(("kind", "start"), [(0xE1, b"Exif\0\0"), (0xE2, b"MPF\0")])
    def test_notes_that_overlap_are_not_unfolded(self, kind: int, start: bytes) -> None:
        entries = b"".join(struct.pack(">HHII", 1000 + tag, 3, 30_000, 8) for tag in range(5400))
        notes = start + (b"MM\0*" + struct.pack(">IH", 8, 5400) + entries)[:65_000]
        data = with_notes(notes, kind)
        started = time.process_time()
        np.testing.assert_array_equal(
            decode_image(data, COLOUR), decode_image(encoded(noise(), "JPEG"), COLOUR)
        )
        assert time.process_time() - started < _AT_MOST_S / 5

    def test_its_size_is_told_once(self) -> None:
        data = encoded(noise(), "JPEG")
        frame = data[(at := data.find(b"\xff\xc0")) : at + 19]
        with pytest.raises(RequestError, match="two frames"):
            open_images([data[:at] + frame + data[at:]])


class TestPng:
    @pytest.mark.parametrize("kind", [b"tEXt", b"IDAT", b"abCd"])
    def test_a_million_empty_chunks_are_refused_without_holding_anybody_up(self, kind: bytes) -> None:
        plain = encoded(noise())
        data = plain[:33] + chunk(kind, b"") * 800_000 + plain[33:]
        check_quick(data)
        assert not open_images([data]).is_light, "it is for a process of its own"
        with pytest.raises(RequestError, match="more than 50000 chunks"):
            decode_image(data, COLOUR)

    def test_its_notes_are_unpacked_only_a_few_times(self) -> None:
        plain = encoded(noise())
        note = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n" * 3_000_000))
        started = time.process_time()
        decode_image(plain[:33] + note * 400 + plain[33:], COLOUR)
        assert time.process_time() - started < _AT_MOST_S

    def test_its_size_comes_first(self) -> None:
        plain = encoded(noise())
        with pytest.raises(RequestError, match="size is not told"):
            open_images([plain[:8] + chunk(b"tEXt", b"a\0b") + plain[8:]])


class TestWebp:
    @pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*"}, {"alpha": True}])
    def test_its_size_is_read_from_its_header_alone(self, options: dict[str, Any]) -> None:
        mode = "RGBA" if options.pop("alpha", False) else "RGB"
        data = encoded(noise((300, 17), mode), "WEBP", **options)
        assert open_images([data[:30]]).num_pixels == [300 * 17]

    def test_a_kilobyte_of_25_megapixels_is_not_light(self) -> None:
        data = encoded(Image.new("RGB", (4990, 5000)), "WEBP", lossless=True)
        assert len(data) < 2_000
        opened = open_images([data])
        assert opened.num_pixels == [4990 * 5000] and not opened.is_light

    def test_one_that_contradicts_itself_is_refused(self) -> None:
        data = bytearray(encoded(noise((40, 30)), "WEBP", exif=b"Exif\0\0MM\0*"))
        data[24] += 1  # the canvas is now one pixel wider than the picture
        with pytest.raises(RequestError, match="cannot be decoded"):
            decode_image(bytes(data), COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_the_orientation_is_found_as_pillow_finds_it(kind: str, order: str, orientation: int) -> None:
    exif = Image.Exif()
    exif.endian = "<" if order == "II" else ">"
    exif.update({0x010F: "A camera", 0x0112: orientation, 0x8769: {0x829A: 1.0}})
    data = encoded(noise((40, 30)), kind, exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
    assert photo_size(data) == ((30, 40) if orientation == 6 else (40, 30))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_orientation_may_stand_in_xmp(kind: str) -> None:
    data = encoded(noise((40, 30)), kind, xmp=b'<x:xmpmeta><rdf tiff:Orientation="8"/></x:xmpmeta>')
    assert photo_size(data) == (30, 40)
