"""HEIC, the format of many phones: read with the extra heif, and refused with its name without it."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Bundle, Preprocessing
from offramp.engine.images import decode_image, open_images
from offramp.errors import RequestError, UnsupportedMediaError
from tests.nodes import png, running_cloud, running_edge

pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra 'heif'")

COLOUR = Preprocessing(height=32, width=48, mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3)
PICTURE = Image.linear_gradient("L").resize((96, 64)).convert("RGB")


def heic(picture: Image.Image = PICTURE, **options: Any) -> bytes:
    data = io.BytesIO()
    pillow_heif.from_pillow(picture).save(data, quality=90, **options)
    return data.getvalue()


def test_it_is_read_by_its_contents() -> None:
    expected = np.asarray(PICTURE.resize((48, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode_image(heic(), COLOUR).astype(int) - expected).max() <= 4


def test_a_photo_taken_upright_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = PICTURE.transpose(Image.Transpose.ROTATE_270)
    expected = np.asarray(upright.resize((48, 32), Image.Resampling.BILINEAR)).astype(int)
    found = decode_image(heic(exif=exif.tobytes()), COLOUR).astype(int)
    assert np.abs(found - expected).max() <= 4


def test_half_of_one_is_damaged_and_not_of_another_kind() -> None:
    data = heic()
    with pytest.raises(RequestError, match="cannot be decoded") as refused:
        decode_image(data[: len(data) // 2], COLOUR)
    assert not isinstance(refused.value, UnsupportedMediaError)


def test_without_the_extra_it_is_refused_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnsupportedMediaError, match=r"a HEIC photo.*pip install .*\[heif\]"):
        decode_image(data, COLOUR)


def test_another_tier_is_not_asked_to_read_it() -> None:
    photo = png(np.zeros((8, 8, 3), np.uint8))
    opened = open_images([heic(), photo])
    assert opened.files == [None, photo]
    assert not opened.is_light, "its decoder takes milliseconds for a small one, too"


async def test_it_is_answered_by_the_cloud_from_what_the_network_sees(tiny_bundle: Bundle) -> None:
    async with (
        running_cloud(tiny_bundle, blocks="1-3") as cloud,
        running_edge(tiny_bundle, upstream=cloud, offload_timeout_s=10.0) as client,
    ):
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        answer = (await client.post("/v1/predict", content=heic())).json()
    assert (answer["sent"], answer["degraded_reason"]) == ("pixels", None)
