"""Says in words what a preprocessing does to photos. Sizes are written width x height, as for photos."""

from __future__ import annotations

from offramp.bundle.preprocessing import Preprocessing

_COLORS: dict[object, str] = {0: "black", (0, 0, 0): "black", 255: "white", (255, 255, 255): "white"}


def preprocessing_in_words(preprocessing: Preprocessing) -> str:
    """What happens to every photo, on one line."""
    to = preprocessing.resize_to or (preprocessing.height, preprocessing.width)
    target = f"{preprocessing.width} x {preprocessing.height}"
    if isinstance(to, int):
        whole = f"shorter side resized to {to}"
    elif preprocessing.resize == "shorter_side":
        whole = f"shorter side resized to {max(to)}"
    else:
        whole = f"{'stretched' if preprocessing.resize == 'exact' else 'fitted in'} to {to[1]} x {to[0]}"
    steps = [f"{whole} pixels ({preprocessing.interpolation})"]
    if preprocessing.resize == "fit":
        steps.append(f"padded with {_color(preprocessing.pad_color)}")
    if preprocessing.resize == "shorter_side" or to != (preprocessing.height, preprocessing.width):
        steps.append(f"the central {target} kept")
    steps.append("grey" if preprocessing.mode == "L" else "RGB")
    steps.append(f"transparency over {_color(preprocessing.background)}")
    if preprocessing.jpeg_margin:
        steps.append(f"JPEG decoded at {preprocessing.jpeg_margin} times that size or more")
    else:
        steps.append("JPEG decoded at its full size")
    return ", ".join(steps)


def photo_in_words(preprocessing: Preprocessing, size: tuple[int, int]) -> str:
    """What happens to a photo of the size (width, height), upright: new size, what is cut off, how it is stretched."""
    whole = preprocessing.resized(*size)
    target = (preprocessing.width, preprocessing.height)
    said = [f"{size[0]} x {size[1]} pixels, resized to {whole[0]} x {whole[1]}"]
    sides = [
        (f"{(before - kept) / before:.1%}", name)
        for name, before, kept in zip(("width", "height"), whole, target, strict=True)
        if before > kept
    ]
    if sides:
        said.append("cut off: " + " and ".join(f"{share} of its {name}" for share, name in sides))
    else:
        said.append("nothing cut off")
    if whole[0] < target[0] or whole[1] < target[1]:
        said.append(f"padded to {target[0]} x {target[1]}")
    stretch = (whole[0] / size[0]) / (whole[1] / size[1])
    if preprocessing.resize == "exact" and not 0.99 < stretch < 1.01:
        way, factor = ("width", stretch) if stretch > 1 else ("height", 1 / stretch)
        said.append(f"its shape is not kept: stretched {factor:.2f} times in its {way}")
    return "; ".join(said)


def _color(color: int | tuple[int, int, int]) -> str:
    return _COLORS.get(color, str(color))
