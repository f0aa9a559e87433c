"""How large the images of a request may be."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.errors import RequestError, TooLargeError


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Limits on the images of one request, checked by their headers before any of them is decoded.

    max_pixels: of all images together. max_aspect_ratio: longer side of an image to its shorter one.
    setting: what `max_pixels` is set by, for the errors; None if it is not a setting.
    """

    max_pixels: int = 60_000_000
    max_aspect_ratio: float = 20.0
    setting: str | None = None

    @property
    def in_words(self) -> str:
        """The limit on pixels, with the name of its setting."""
        return f"limit of {self.max_pixels} pixels" + (f" ({self.setting})" if self.setting else "")

    def check(self, size: tuple[int, int], pixels_left: int) -> None:
        """Check an image of the size (width, height); `pixels_left`: what the request may still have after it.

        Raises:
            TooLargeError: it takes the request over its limit.
            RequestError: its aspect ratio is beyond the limit.
        """
        width, height = size
        if pixels_left < 0:
            raise TooLargeError(
                f"image of {width} x {height} pixels takes the request over its {self.in_words}; "
                "send smaller images, or fewer"
            )
        if max(width, height) > self.max_aspect_ratio * min(width, height):
            raise RequestError(
                f"image of {width} x {height} pixels has one side more than {self.max_aspect_ratio:g} times as long as "
                "the other, too much to shrink to the network's size; crop it first"
            )


DEFAULT_LIMITS = ImageLimits()
