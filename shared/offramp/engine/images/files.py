"""Opens image files with Pillow: which formats are read, and what is mended or refused."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from offramp.engine.images import png
from offramp.engine.images.limits import ImageLimits
from offramp.errors import RequestError, TooLargeError, UnsupportedMediaError
from offramp.install import how_to_install

HEIF = "HEIF"
FORMATS = ("JPEG", "PNG", "WEBP")
# How the names of photos end. A file that has such a name may still be something else.
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif"})

# Pillow only warns about a possible decompression bomb; `ImageLimits` is stricter and refuses it.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# It also warns about damaged EXIF data, which `orientation` tolerates.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# The brands of ISO 23008-12 (HEIF) for pictures that HEVC encodes.
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def open_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header of an image; no pixel is decoded, and `limits` are for the caller to check.

    Raises:
        UnsupportedMediaError: it is not in a format that is read here, or that an extra which is missing would read.
        TooLargeError: it has more pixels than Pillow ever reads.
        RequestError: empty or damaged data.
    """
    if not data:
        raise RequestError("image of 0 bytes; send the contents of a JPEG, PNG or WebP file")
    try:
        return _opened(data)
    except UnidentifiedImageError as error:
        if _is_heic(data):
            raise _damaged(len(data), error) from error
        raise UnsupportedMediaError(
            f"{len(data)} bytes that begin with {data[:8].hex(' ')} are not an image this node reads; "
            "send a JPEG, PNG or WebP"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"image over the {limits.in_words}: {error}; send a smaller one") from error
    except (MemoryError, RequestError):
        raise
    except Exception as error:
        raise _damaged(len(data), error) from error


def load_image(image: Image.Image, num_bytes: int) -> None:
    """Decode the pixels of an opened image; `num_bytes`: size of its file, for the error.

    Raises:
        RequestError: truncated or damaged data.
    """
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(num_bytes, error) from error


def _opened(data: bytes) -> Image.Image:
    if data.startswith(png.SIGNATURE):
        image = Image.open(io.BytesIO(png.picture_of(data)), formats=("PNG",))
        if "transparency" in image.info:
            png.mend_transparency(image, data)
        return image
    if _is_heic(data):
        _register_heif()
        return Image.open(io.BytesIO(data), formats=(HEIF,))
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def _register_heif() -> None:
    try:
        import pillow_heif
    except ModuleNotFoundError as error:
        raise UnsupportedMediaError(
            f"a HEIC photo, which this node does not read; send a JPEG, PNG or WebP, or install the extra heif where "
            f"the node runs: {how_to_install('heif')}"
        ) from error
    pillow_heif.register_heif_opener(thumbnails=False)


def _damaged(size: int, error: Exception) -> RequestError:
    # Pillow's decoders raise all kinds of exceptions on damaged data.
    return RequestError(f"image of {size} bytes cannot be decoded: {error}; send the whole file again")
