"""What the header of an image file says, read without decoding it and without taking memory for its pixels.

The work is bounded, because it is done on the event loop: a few steps for each part of the header, up to a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["JPEG", "PNG", "WEBP", "HEIF"]

# A file of more bytes, or in more parts than this, is never light.
LIGHT_BYTES = 1 << 20
LIGHT_PARTS = 500


@dataclass(frozen=True, slots=True)
class Header:
    """Format and size of an image, as its file says.

    width, height: in pixels, before it is turned upright. num_scans: how often a JPEG goes over its pixels, at most.
    is_simple: whether reading the file is known to be little work beside that on its pixels.
    turn: the orientation that a JPEG's notes tell, 1 to 8. front: a JPEG up to its pixels, without notes.
    rest: where in the file its pixels begin. components: how many values a JPEG has for a pixel.
    """

    kind: Kind
    width: int
    height: int
    num_scans: int = 1
    is_simple: bool = True
    turn: int = 1
    front: bytes = b""
    rest: int = 0
    components: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def num_pixels(self) -> int:
        """Pixels of the picture, whether or not they are in the file."""
        return self.width * self.height


class DamageError(Exception):
    """A file breaks the rules of its format; the text says which."""
