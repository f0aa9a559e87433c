"""Resizing with the library that a bundle names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from offramp.bundle import Preprocessing, load_bundle
from offramp.bundle.preprocessing import decisive_fields
from offramp.engine.images import decode_image
from offramp.engine.images.fit import fitted, fitted_pixels
from offramp.engine.images.resizing import Box, resized
from tests.commands import check_refused, offramp, trained_on_noise
from tests.conftest import ROOT

PILLOW = Preprocessing(
    height=224, width=224, mode="RGB", mean=(0.5,) * 3, std=(0.5,) * 3, resize="shorter_side", resize_to=256
)
FAST = PILLOW.model_copy(update={"resizer": "fast_image_resize"})
PHOTOS = [Image.open(path).convert("RGB") for path in sorted((ROOT / "samples/grocery").glob("*/*.jpg"))[:6]]


def levels(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(image).astype(np.int64)


@pytest.mark.parametrize("box", [None, (20.5, 0.25, 300.1, 200.7)])
@pytest.mark.parametrize("size", [(224, 224), (97, 31), (500, 400), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_within_a_level_of_pillows(mode: str, size: tuple[int, int], box: Box | None) -> None:
    for photo in PHOTOS:
        image = photo.convert(mode)
        found, expected = (resized(image, size, each, box) for each in (FAST, PILLOW))
        assert (found.mode, found.size) == (mode, size)
        assert np.abs(levels(found) - levels(expected)).max() <= 1


def test_a_photo_is_cropped_alike() -> None:
    for photo in PHOTOS:
        file = io.BytesIO()
        photo.resize((400, 300)).save(file, "JPEG", quality=95)
        fast, plain = (decode_image(file.getvalue(), each).astype(np.int64) for each in (FAST, PILLOW))
        assert fast.shape == plain.shape == (224, 224, 3)
        assert 0 < np.abs(fast - plain).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("resize", ["exact", "shorter_side", "fit"])
@pytest.mark.parametrize(
    "size", [(400, 300), (301, 417), (256, 256), (224, 224), (256, 341), (230, 90), (1200, 900)]
)
@pytest.mark.parametrize("preprocessing", [FAST, PILLOW])
def test_pixels_that_never_were_an_image_are_the_same(
    preprocessing: Preprocessing, size: tuple[int, int], resize: str, mode: str
) -> None:
    preprocessing = preprocessing.model_copy(update={"resize": resize, "mode": mode})
    pixels = np.asarray(PHOTOS[0].convert(mode).resize(size))
    whole = preprocessing.resized(*size)
    expected = fitted(Image.fromarray(pixels), preprocessing, whole)
    found = fitted_pixels(pixels, preprocessing, whole)
    needs_pillow = min(preprocessing.resized(*size)) < 224 or (
        size != whole and (preprocessing.resizer == "pillow" or size[0] > 1000)
    )
    assert (found is None) == needs_pillow
    assert found is None or found.tolist() == expected.tolist()


def test_a_grey_photo_of_a_coloured_network_is_left_to_pillow() -> None:
    grey, colour = np.zeros((300, 300), np.uint8), np.zeros((300, 300, 3), np.uint8)
    assert fitted_pixels(grey, FAST, (256, 256)) is None
    assert fitted_pixels(colour, FAST.model_copy(update={"mode": "L"}), (256, 256)) is None


@pytest.mark.parametrize(
    "image", [Image.new("RGBA", (300, 200), (9, 8, 7, 99)), Image.new("RGB", (1100, 1000), (9, 8, 7))]
)
def test_transparent_and_large_images_are_left_to_pillow(
    image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("offramp.engine.images.resizing.Resizer")
    assert levels(resized(image, (10, 10), FAST)).tolist() == levels(image.resize((10, 10))).tolist()


def test_only_what_it_resizes_as_pillow_does_may_name_it() -> None:
    with pytest.raises(ValidationError, match="only with interpolation 'bilinear', not 'bicubic'"):
        Preprocessing.model_validate({**FAST.model_dump(), "interpolation": "bicubic"})


def test_a_bundle_that_does_not_name_it_keeps_its_id() -> None:
    assert "resizer" not in decisive_fields(PILLOW)
    assert decisive_fields(FAST)["resizer"] == "fast_image_resize"


def test_quantise_can_name_it(tmp_path: Path) -> None:
    trained = trained_on_noise(tmp_path / "made")
    command = (
        "quantise",
        trained / "bundle",
        "--data",
        trained / "photos",
        "--all-layers",
        "--most-change",
        "0.5",
    )
    result = offramp(*command, "--out", tmp_path / "fast", "--resizer", "fast_image_resize")
    assert result.exit_code == 0, result.output
    assert load_bundle(tmp_path / "fast").manifest.preprocessing.resizer == "fast_image_resize"
    check_refused(
        offramp(*command, "--out", tmp_path / "other", "--resizer", "opencv"), "--resizer is 'opencv'"
    )
