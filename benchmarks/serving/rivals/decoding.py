"""An image file to the network's pixels, as the bundle's preprocessing says, with Pillow and without Offramp.

`benchmarks.serving.checking` holds the answers that come of it against those of Offramp's own decoding.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
_JPEG, _EXIF, _NOTES = b"\xff\xd8\xff", b"Exif\0\0", 1 << 16
_WITHIN_A_LEVEL = {Image.Resampling.BILINEAR, Image.Resampling.BOX}  # of the pixels of resizing all of it
_MOST_PIXELS = 1 << 20  # as Offramp has it
_ORIENTATION, _LIES = 0x0112, 5  # from this orientation on, the sides of the file are swapped

_Box = tuple[float, float, float, float]


class Decoder:
    """Decodes as one bundle says; `preprocessing` is that of its manifest, as JSON.

    turbo: whether a JPEG without notes is decoded with simplejpeg, and resized with what the bundle names.
    """

    def __init__(self, preprocessing: Mapping[str, Any], *, turbo: bool = False) -> None:
        self._turbo = turbo and preprocessing["mode"] == "RGB"
        self._given = preprocessing
        self._size = preprocessing["width"], preprocessing["height"]
        self._filter = _FILTERS[preprocessing["interpolation"]]
        self._mode: str = preprocessing["mode"]

    def __call__(self, body: bytes) -> NDArray[np.uint8]:
        """Pixels, uint8 (1, H, W, C)."""
        if self._turbo and body.startswith(_JPEG) and _EXIF not in body[:_NOTES]:
            return self._by_turbo(body)
        image: Image.Image = Image.open(io.BytesIO(body))
        lies = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) >= _LIES
        whole = self._whole(*(image.size[::-1] if lies else image.size))
        if margin := self._given["jpeg_margin"]:
            # libjpeg can decode at 1/2, 1/4 or 1/8 of the size, which skips most of the work.
            width, height = whole[::-1] if lies else whole
            image.draft(None, (margin * width, margin * height))
        if "exif" in image.info:
            ImageOps.exif_transpose(image, in_place=True)
        image = self._centre(_plain(image), whole)
        image = self._padded(self._flat(image))
        return np.frombuffer(image.tobytes(), np.uint8).reshape(1, *reversed(self._size), len(self._mode))

    def _by_turbo(self, body: bytes) -> NDArray[np.uint8]:
        """A JPEG without notes, without Pillow unless that has to resize or pad it."""
        import simplejpeg

        height, width, *_ = simplejpeg.decode_jpeg_header(body)
        whole = self._whole(width, height)
        margin = self._given["jpeg_margin"]
        most = min(width // (margin * whole[0]), height // (margin * whole[1])) if margin else 1
        scale = next((each for each in (8, 4, 2) if each <= most), 1)
        width, height = -(-width // scale), -(-height // scale)
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(body, "RGB", min_width=width, min_height=height)
        if (width, height) == whole == self._size:
            return pixels[None]
        kept, part = self._kept((width, height), whole)
        if self._is_fast(width, height) and kept == self._size:
            return _resized(pixels, kept, part)[None]
        image = self._padded(self._centre(Image.fromarray(pixels), whole))
        return np.frombuffer(image.tobytes(), np.uint8).reshape(1, *reversed(self._size), len(self._mode))

    def _whole(self, width: int, height: int) -> tuple[int, int]:
        """The size that all of the photo is resized to."""
        how, to = self._given["resize"], self._given["resize_to"]
        if how == "shorter_side":
            shorter = to or max(self._size)
            longer = int(shorter * max(width, height) / min(width, height))
            return (shorter, longer) if width <= height else (longer, shorter)
        box = (to[1], to[0]) if to else self._size
        if how == "exact":
            return box
        ratio = max(width / box[0], height / box[1])
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _kept(self, size: tuple[int, int], whole: tuple[int, int]) -> tuple[tuple[int, int], _Box]:
        """The size of what a crop keeps, and where that is before all is resized from `size` to `whole`."""
        width, height = min(whole[0], self._size[0]), min(whole[1], self._size[1])
        left, upper = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
        across, down = size[0] / whole[0], size[1] / whole[1]
        right, lower = min((left + width) * across, size[0]), min((upper + height) * down, size[1])
        return (width, height), (left * across, upper * down, right, lower)

    def _centre(self, image: Image.Image, whole: tuple[int, int]) -> Image.Image:
        if image.size != whole:
            kept, part = self._kept(image.size, whole)
            if self._filter in _WITHIN_A_LEVEL and kept != whole:
                # Only what the crop keeps is resized; the filter still looks beyond the box.
                return self._scaled(image, kept, part)
            image = self._scaled(image, whole, (0.0, 0.0, *image.size))
        kept, part = self._kept(whole, whole)
        return image if kept == whole else image.crop(part)

    def _scaled(self, image: Image.Image, size: tuple[int, int], part: _Box) -> Image.Image:
        if image.mode in ("L", "RGB") and self._is_fast(*image.size):
            return Image.fromarray(_resized(np.asarray(image), size, part))
        return image.resize(size, self._filter, part)

    def _is_fast(self, width: int, height: int) -> bool:
        named = self._given.get("resizer", "pillow") != "pillow"
        return self._turbo and named and width * height <= _MOST_PIXELS

    def _flat(self, image: Image.Image) -> Image.Image:
        if image.mode == "RGBA":
            behind = Image.new("RGBA", image.size, (*_rgb(self._given["background"]), 255))
            image = Image.alpha_composite(behind, image)
        return image if image.mode == self._mode else image.convert(self._mode)

    def _padded(self, image: Image.Image) -> Image.Image:
        if image.size == self._size:
            return image
        color = self._given["pad_color"]
        padded = Image.new(self._mode, self._size, color if self._mode == "L" else _rgb(color))
        padded.paste(image, ((self._size[0] - image.width) // 2, (self._size[1] - image.height) // 2))
        return padded


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int], part: _Box) -> NDArray[np.uint8]:
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

    left, upper, right, lower = part
    kind = PixelType.U8 if pixels.ndim == 2 else PixelType.U8x3
    found, given = ImageData(*size, kind), ImageData(*pixels.shape[1::-1], kind, pixels.tobytes())
    options = ResizeOptions(
        resize_alg=ResizeAlg.convolution(FilterType.bilinear),
        crop_box=CropBox(left, upper, right - left, lower - upper),
        use_alpha=False,
    )
    Resizer().resize(given, found, options)
    return np.frombuffer(found.get_buffer(), np.uint8).reshape(size[1], size[0], *pixels.shape[2:])


def _plain(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _rgb(color: Any) -> tuple[int, int, int]:
    red, green, blue = color if isinstance(color, list | tuple) else (color, color, color)
    return red, green, blue
