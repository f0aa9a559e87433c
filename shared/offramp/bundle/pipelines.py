"""Reads the preprocessing of timm, transformers and torchvision; none of them is imported.

Each function returns the fields of a `Preprocessing`. These pipelines decode every photo at its full size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from offramp.errors import ConfigError

_FILTERS: Mapping[str | int, str] = {
    "nearest": "nearest",
    "nearest-exact": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos",
    "box": "area",
    # the numbers of `PIL.Image.Resampling`
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "area",
}
# What some image processors of transformers do besides resizing, cropping and normalising.
_BEYOND = (
    "rescale_offset",
    "offset",
    "pad_size",
    "crop_margin",
    "patch_size",
    "ensure_multiple_of",
    "num_frames",
)
_KNOWN_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}


def of_timm(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation pipeline that timm makes of a configuration.

    Source: `timm.data.transforms_factory.transforms_imagenet_eval`, and the defaults of `resolve_data_config`.
    """
    cfg = _as_mapping(cfg, "a configuration of timm")
    cfg = cfg.get("pretrained_cfg") or cfg
    channels, height, width = (int(side) for side in cfg.get("input_size") or (3, 224, 224))
    if channels not in (1, 3):
        raise ConfigError(f"input_size says {channels} channels; a photo has 1 or 3")
    crop_pct = cfg.get("crop_pct") or 0.875
    fields = _common(
        height,
        width,
        interpolation=cfg.get("interpolation") or "bicubic",
        mean=cfg.get("mean") or (0.485, 0.456, 0.406),
        std=cfg.get("std") or (0.229, 0.224, 0.225),
    ) | {"mode": "L" if channels == 1 else "RGB"}
    box = (math.floor(height / crop_pct), math.floor(width / crop_pct))
    match cfg.get("crop_mode") or "center":
        case "center" if height == width:
            return fields | {"resize": "shorter_side", "resize_to": box[0]}
        case "squash":
            return fields | {"resize": "exact", "resize_to": box if box != (height, width) else None}
        case "border":
            grey = [round(255 * value) for value in fields["mean"]]
            pad_color = grey[0] if channels == 1 else tuple(grey)
            return fields | {"resize": "fit", "resize_to": box, "pad_color": pad_color}
        case mode:
            raise ConfigError(
                f"crop_mode '{mode}' for {height} x {width} pixels cannot be reproduced; use center for a square "
                "input, squash or border"
            )


def of_torchvision(transforms: Any) -> dict[str, Any]:
    """The preset `torchvision.transforms._presets.ImageClassification`."""
    try:
        crop, to = _list(transforms.crop_size), _list(transforms.resize_size)
        interpolation, mean, std = transforms.interpolation, transforms.mean, transforms.std
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f"{type(transforms).__name__} is not torchvision's preset for classification: {error}; pass what "
            "`weights.transforms()` returns, or write the Preprocessing by hand"
        ) from error
    fields = _common(crop[0], crop[-1], interpolation=interpolation, mean=mean, std=std)
    if len(to) == 1:
        return fields | {"resize": "shorter_side", "resize_to": to[0]}
    return fields | {"resize": "exact", "resize_to": tuple(to) if to != [crop[0], crop[-1]] else None}


def of_transformers(processor: Any) -> dict[str, Any]:
    """The pipeline of an image processor: resize, centre crop, rescale, normalise.

    Its centre crop is the one of the fast processors, which is torchvision's. The slow ones round an odd margin down.
    """
    config = _as_mapping(processor, "an image processor")
    _refuse_other_steps(config)
    if not config.get("do_resize", True):
        raise ConfigError("do_resize is off, but a network takes photos of one size; set do_resize and size")
    size = _needed(config, "size")
    shape = _shape(config, size)
    mean, std = _normalisation(config)
    return shape | _common(
        shape["height"], shape["width"], interpolation=_needed(config, "resample"), mean=mean, std=std
    )


def _common(height: int, width: int, *, interpolation: Any, mean: Any, std: Any) -> dict[str, Any]:
    name = getattr(interpolation, "value", interpolation)
    if name not in _FILTERS:
        raise ConfigError(
            f"interpolation '{name}' cannot be reproduced; the known ones are nearest, bilinear, bicubic, lanczos "
            "and box"
        )
    return {
        "height": height,
        "width": width,
        "mode": "RGB",
        "mean": tuple(map(float, mean)),
        "std": tuple(map(float, std)),
        "interpolation": _FILTERS[name],
        "jpeg_margin": 0,
    }


def _shape(config: Mapping[str, Any], size: Any) -> dict[str, Any]:
    """The fields of size: resize, resize_to, height and width."""
    sides = _size_named(size)
    crops = config.get("do_center_crop", config.get("crop_size") is not None)
    crop_pct = config.get("crop_pct")
    if isinstance(size, int):
        # Older files have one number. ConvNeXt's processor and those that crop mean the shorter side by it.
        keeps_shape = crops or crop_pct is not None
        sides = {"shortest_edge": size} if keeps_shape else {"height": size, "width": size}
    if set(sides) not in ({"shortest_edge"}, {"height", "width"}):
        raise ConfigError(f"size {dict(sides)} cannot be reproduced; use shortest_edge, or height and width")
    if crop_pct is not None and "shortest_edge" in sides:
        return _convnext_shape(sides["shortest_edge"], crop_pct)
    if crops:
        crop = _size_named(_needed(config, "crop_size"))
        height, width = crop.get("height"), crop.get("width")
    else:
        height, width = sides.get("height"), sides.get("width")
    if height is None or width is None:
        raise ConfigError(
            f"size {dict(sides)} without a centre crop gives photos of different sizes; set do_center_crop and "
            "crop_size"
        )
    if "shortest_edge" in sides:
        fields = {"resize": "shorter_side", "resize_to": sides["shortest_edge"]}
    else:
        to = (sides["height"], sides["width"])
        fields = {"resize": "exact", "resize_to": to if to != (height, width) else None}
    return fields | {"height": height, "width": width}


def _convnext_shape(side: int, crop_pct: float) -> dict[str, Any]:
    if side >= 384:  # ConvNeXt stretches what is this large, and crops nothing
        return {"resize": "exact", "height": side, "width": side}
    return {"resize": "shorter_side", "resize_to": int(side / crop_pct), "height": side, "width": side}


def _normalisation(config: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and std of pixels in [0, 1], whatever the factor that the processor rescales with."""
    mean, std = [0.0] * 3, [1.0] * 3
    if config.get("do_normalize", True):
        mean, std = list(_needed(config, "image_mean")), list(_needed(config, "image_std"))
        if config.get("include_top"):  # EfficientNet's processor divides by the standard deviation twice
            std = [value * value for value in std]
    factor = (config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0
    if math.isclose(factor * 255, 1.0):
        return mean, std
    return [value / (255 * factor) for value in mean], [value / (255 * factor) for value in std]


def _refuse_other_steps(config: Mapping[str, Any]) -> None:
    def others() -> Iterator[str]:
        yield from (name for name in _BEYOND if config.get(name))
        yield from (
            name for name in config if name.startswith("do_") and name not in _KNOWN_STEPS and config[name]
        )

    if found := sorted(others()):
        raise ConfigError(
            f"this image processor also does {', '.join(found)}, which cannot be reproduced; turn it off if the "
            "network allows it, or put that step into the network"
        )


def _needed(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise ConfigError(
            f"this image processor's configuration has no '{name}', so its class decides it; pass the processor "
            "itself, such as AutoImageProcessor.from_pretrained(…)"
        )
    return config[name]


def _size_named(size: Any) -> Mapping[str, int]:
    if isinstance(size, int):
        return {"height": size, "width": size}
    if isinstance(size, Sequence) and len(size) == 2:
        return {"height": size[0], "width": size[1]}
    sides = size if isinstance(size, Mapping) else vars(size)
    return {name: int(side) for name, side in sides.items() if side is not None}


def _as_mapping(source: Any, what: str) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    if callable(to_dict := getattr(source, "to_dict", None)):
        return dict(to_dict())
    raise ConfigError(f"{type(source).__name__} is not {what}; pass the object itself, or its dictionary")


def _list(size: Any) -> list[int]:
    return [size] if isinstance(size, int) else [int(side) for side in size]
