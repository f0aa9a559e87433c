"""How a photo becomes the pixels that block 1 takes: part of the bundle, since it decides the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from offramp.bundle import pipelines
from offramp.errors import ConfigError
from offramp.record import Record

Resize = Literal["exact", "shorter_side", "fit"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "area"]
Resizer = Literal["pillow", "fast_image_resize"]

_Level = Annotated[int, Field(ge=0, le=255)]
Color = _Level | tuple[_Level, _Level, _Level]
_Side = Annotated[int, Field(ge=1, le=8192)]


class Preprocessing(Record):
    """The input of block 1, uint8 pixels (B, height, width, channels) from 0 to 255, and how a photo becomes that.

    Everything that reads photos follows it: training, calibration, evaluation and the nodes. A photo is decoded, turned
    upright, resized, laid over `background` where it is transparent, and cropped or padded around its centre to
    (height, width). Block 1's graph then scales pixels to [0, 1], subtracts `mean` and divides by `std`, per channel.

    The defaults stretch a photo: its whole area is resized to (height, width), whatever its shape.
    """

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    mode: Literal["L", "RGB"]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    resize: Resize = Field(
        default="exact",
        description="exact: to the size of resize_to, whatever the photo's shape; shorter_side: the photo keeps its "
        "shape and its shorter side gets the length of resize_to; fit: it keeps its shape and just fits into "
        "resize_to, and the rest is padded",
    )
    resize_to: _Side | tuple[_Side, _Side] | None = Field(
        default=None,
        description="size before the centre crop: (height, width), or one number for shorter_side; "
        "null: (height, width), nothing is cropped but what shorter_side leaves over",
    )
    interpolation: Interpolation = Field(
        default="bilinear", description="antialiased, as Pillow defines it; area averages"
    )
    resizer: Resizer = Field(
        default="pillow",
        description="library that resizes; fast_image_resize is several times as fast, for bilinear only, and gives "
        "pixels within one level of Pillow's",
    )
    pad_color: Color = Field(
        default=0, description="around a photo that fits: a level of grey, or red, green, blue"
    )
    background: Color = Field(default=0, description="behind what is transparent, likewise")
    jpeg_margin: int = Field(
        default=2,
        ge=0,
        le=64,
        description="a JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 of its size that is at least this many "
        "times as large as what it is resized to; 0: always at its full size",
    )

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return len(self.mode)

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one image."""
        return self.height, self.width, self.channels

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) that a whole photo is resized to, before it is cropped or padded.

        Args:
            width: of the upright photo, in pixels.
            height: likewise.

        Source: torchvision's `Resize` for shorter_side, timm's `ResizeKeepRatio` for fit; both round as it does here.
        """
        to = self.resize_to
        if self.resize == "exact":
            return (self.width, self.height) if to is None else _sides(to)[::-1]
        if self.resize == "shorter_side":
            shorter = _shorter(self)
            longer = int(shorter * max(width, height) / min(width, height))
            return (shorter, longer) if width <= height else (longer, shorter)
        box_height, box_width = (self.height, self.width) if to is None else _sides(to)
        ratio = max(height / box_height, width / box_width)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def resized_by(self, resizer: Resizer) -> Self:
        """The same with another library that resizes, which changes pixels a little.

        Raises:
            ConfigError: that library does not resize as this says.
        """
        try:
            return type(self).model_validate({**self.model_dump(), "resizer": resizer})
        except ValidationError as error:
            raise ConfigError(str(error.errors()[0]["msg"])) from error

    @classmethod
    def from_timm(cls, cfg: Mapping[str, Any]) -> Self:
        """Take over timm's evaluation pipeline from `model.pretrained_cfg` or `timm.data.resolve_data_config`.

        The crop modes center, squash and border give the pixels that `timm.data.create_transform` gives.

        Raises:
            ConfigError: the configuration says something that cannot be reproduced; the error names it.
        """
        return cls._taken_over(pipelines.of_timm(cfg), "timm configuration")

    @classmethod
    def from_transformers(cls, processor: Any) -> Self:
        """Take over an image processor of transformers, or the dictionary in its `preprocessor_config.json`.

        Raises:
            ConfigError: the processor does something that cannot be reproduced, or its file leaves out what its class
                decides; the error names it.
        """
        return cls._taken_over(pipelines.of_transformers(processor), "image processor")

    @classmethod
    def from_torchvision(cls, transforms: Any) -> Self:
        """Take over torchvision's preset for classification, which is what `weights.transforms()` returns.

        Raises:
            ConfigError: it is not such a preset.
        """
        return cls._taken_over(pipelines.of_torchvision(transforms), "torchvision preset")

    @classmethod
    def _taken_over(cls, fields: Mapping[str, Any], what: str) -> Self:
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"this {what} cannot be used: {place or 'it'}: {first['msg']}") from error

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mode {self.mode} needs {self.channels} values of mean and of std")
        _check_resize(self)
        if self.resizer != "pillow" and self.interpolation != "bilinear":
            raise ValueError(
                f"{self.resizer} resizes as Pillow does only with interpolation 'bilinear', not "
                f"'{self.interpolation}'; leave resizer out"
            )
        if self.mode == "L" and isinstance(self.pad_color, tuple):
            raise ValueError(
                f"mode L pads with a level of grey; make pad_color one number, not {self.pad_color}"
            )
        if self.resize != "fit" and self.pad_color != 0:
            raise ValueError(
                f"resize '{self.resize}' pads nothing; leave pad_color out, or make resize 'fit'"
            )
        return self


def decisive_fields(preprocessing: Preprocessing) -> dict[str, Any]:
    """What the id of a bundle is made of: all fields, but later ones only where they are not at their defaults.

    A bundle that is older than a field keeps its id that way.
    """
    fields = preprocessing.model_dump(mode="json")
    return {
        name: value
        for name, value in fields.items()
        if Preprocessing.model_fields[name].is_required() or value != Preprocessing.model_fields[name].default
    }


def _check_resize(preprocessing: Preprocessing) -> None:
    to, height, width = preprocessing.resize_to, preprocessing.height, preprocessing.width
    if to is None:
        return
    if preprocessing.resize == "shorter_side":
        if isinstance(to, tuple):
            raise ValueError(
                f"resize 'shorter_side' takes one length as resize_to, not {to}; give the shorter one"
            )
        if to < max(height, width):
            raise ValueError(
                f"a shorter side of {to} pixels is less than the crop of {height} x {width}; "
                f"make resize_to at least {max(height, width)}, or the crop smaller"
            )
    elif isinstance(to, int):
        raise ValueError(
            f"resize '{preprocessing.resize}' takes (height, width) as resize_to, not {to}; write ({to}, {to}), "
            "or make resize 'shorter_side'"
        )
    elif to[0] < height or to[1] < width:
        raise ValueError(
            f"resize_to is {to[0]} x {to[1]} pixels, less than the crop of {height} x {width}; "
            "make resize_to at least as large, or the crop smaller"
        )


def _sides(to: int | tuple[int, int]) -> tuple[int, int]:
    return (to, to) if isinstance(to, int) else to


def _shorter(preprocessing: Preprocessing) -> int:
    to = preprocessing.resize_to
    return to if isinstance(to, int) else max(preprocessing.height, preprocessing.width)
