"""Reads the headers of image files, and opens them with Pillow: what is read, mended or refused."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from offramp.engine.images import heif, jpeg, png, turbo, webp
from offramp.engine.images.header import DamageError, Header
from offramp.engine.images.orientation import UPRIGHT, of_exif
from offramp.errors import RequestError, TooLargeError, UnsupportedMediaError

# How the names of photos end. A file that has such a name may still be something else.
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif"})

# Pillow warns of, or refuses, what may be a decompression bomb. `ImageLimits` decides that here.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# It also warns about damaged notes, which are of no interest.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_header(data: bytes) -> Header:
    """Read the header of an image. It is little work, and no memory is taken for pixels.

    Raises:
        UnsupportedMediaError: it is not in a format that is read here, or that an extra which is missing would read.
        RequestError: empty or damaged data.
    """
    if not data:
        raise RequestError("image of 0 bytes; send the contents of a JPEG, PNG or WebP file")
    read = _reader_of(data)
    if read is None:
        raise UnsupportedMediaError(
            f"{len(data)} bytes that begin with {data[:8].hex(' ')} are not an image this node reads; "
            "send a JPEG, PNG or WebP"
        )
    try:
        return read(data)
    except DamageError as error:
        raise _damaged(data, error) from error


class Picture:
    """An image whose header was read; for a WebP, opening it takes the memory of its pixels. Use it in `damage_told`.

    size: (width, height) in pixels, as it lies in the file. turn: the orientation that its notes tell, 1 to 8.
    """

    def __init__(self, data: bytes, header: Header) -> None:
        """Open it.

        Raises:
            DamageError, and whatever Pillow raises: it is damaged.
        """
        self._data, self._header = data, header
        self.size, self.turn = header.size, header.turn
        self._image = None
        if header.kind != "JPEG":
            self._image, self.turn = _opened(data, header)
            self.size = self._image.size
            _check_size(self._image, header)

    def pixels(self, at_least: tuple[int, int] | None = None) -> Image.Image | NDArray[np.uint8]:
        """Decode it.

        Args:
            at_least: size (width, height): a JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 of its size that is
                at least this, which skips most of the work; None: at its full size.

        Returns:
            Pillow's image, or uint8 pixels (H, W) or (H, W, 3).
        """
        image = self._image
        if image is None:
            if (found := turbo.decoded(self._data, self._header, at_least)) is not None:
                return found
            image = JpegImageFile(io.BytesIO(jpeg.picture_of(self._data, self._header)))
            _check_size(image, self._header)
            if at_least:
                image.draft(None, at_least)
        image.load()
        return image

    def close(self) -> None:
        """Give its memory back."""
        if self._image is not None:
            self._image.close()


def _check_size(image: Image.Image, header: Header) -> None:
    if image.size != header.size and header.kind != "HEIF":
        raise DamageError(
            f"its header says {header.width} x {header.height} pixels, its contents {image.size}"
        )


@contextmanager
def damage_told(data: bytes) -> Iterator[None]:
    """Tell of whatever goes wrong with a file as of damage to it: Pillow raises all kinds of exceptions.

    Raises:
        RequestError: what was raised within, unless it is one already, or no memory was left.
        TooLargeError: the image has more pixels than Pillow ever reads.
    """
    try:
        yield
    except (MemoryError, RequestError):
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(
            f"image of more pixels than can be read at all: {error}; send a smaller one"
        ) from error
    except Exception as error:
        raise _damaged(data, error) from error


def _damaged(data: bytes, error: Exception) -> RequestError:
    advice = "" if ";" in str(error) else "; send the whole file again"
    return RequestError(f"image of {len(data)} bytes cannot be decoded: {error}{advice}")


def _reader_of(data: bytes) -> Callable[[bytes], Header] | None:
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read_header
    if data.startswith(png.SIGNATURE):
        return png.read_header
    if webp.is_webp(data):
        return webp.read_header
    return heif.read_header if heif.is_heic(data) else None


def _opened(data: bytes, header: Header) -> tuple[Image.Image, int]:
    # `Image.open` would try several formats, and read the notes of some.
    match header.kind:
        case "PNG":
            plain, turn = png.picture_of(data)
            image = PngImageFile(io.BytesIO(plain))
            if "transparency" in image.info:
                png.mend_transparency(image, data)
            return image, turn
        case "WEBP":
            return _Webp(io.BytesIO(data)), webp.orientation_of(data)
        case _:
            return _opened_heif(data)


class _Webp(WebPImageFile):
    """A WebP that gives back its decoder's two canvases before Pillow takes memory for the picture itself."""

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


def _opened_heif(data: bytes) -> tuple[Image.Image, int]:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    image = Image.open(io.BytesIO(data), formats=("HEIF",))
    return image, of_exif(image.info.get("exif") or b"") or UPRIGHT
