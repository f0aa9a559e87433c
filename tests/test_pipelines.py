"""Preprocessing taken over from the packages that people have their networks from; none of them is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from offramp.bundle import Preprocessing
from offramp.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": MEAN,
    "std": STD,
    "crop_pct": 0.875,
    "crop_mode": "center",
    "num_classes": 1000,
}
VIT: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "do_convert_rgb": None,
}
CROPPED = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


def fields(preprocessing: Preprocessing, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(preprocessing, name) for name in names)


class TestTimm:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({}, ("shorter_side", 256, "bicubic", 0)),
            ({"crop_pct": 0.95, "interpolation": "bilinear"}, ("shorter_side", 235, "bilinear", 0)),
            ({"crop_mode": "squash", "crop_pct": 1.0}, ("exact", None, "bicubic", 0)),
            ({"crop_mode": "squash", "crop_pct": 0.9}, ("exact", (248, 248), "bicubic", 0)),
            ({"crop_mode": "border", "crop_pct": 1.0}, ("fit", (224, 224), "bicubic", (124, 116, 104))),
        ],
    )
    def test_each_crop_mode_is_taken_over(self, change: dict[str, Any], expected: tuple[Any, ...]) -> None:
        found = Preprocessing.from_timm({**TIMM, **change})
        assert fields(found, "resize", "resize_to", "interpolation", "pad_color") == expected
        assert fields(found, "height", "width", "mode", "mean", "std") == (224, 224, "RGB", MEAN, STD)
        assert found.jpeg_margin == 0, "timm decodes a JPEG at its full size"

    def test_the_file_of_a_model_will_do(self) -> None:
        assert Preprocessing.from_timm({"pretrained_cfg": TIMM}) == Preprocessing.from_timm(TIMM)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"interpolation": "random"}, "interpolation 'random' cannot be reproduced"),
            ({"crop_mode": "zoom"}, "crop_mode 'zoom'"),
            ({"input_size": (3, 224, 160)}, "crop_mode 'center' for 224 x 160"),
            ({"input_size": (4, 224, 224)}, "4 channels"),
        ],
    )
    def test_what_cannot_be_reproduced_is_named(self, change: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            Preprocessing.from_timm({**TIMM, **change})


class TestTorchvision:
    def preset(self, **change: Any) -> SimpleNamespace:
        interpolation = SimpleNamespace(value="bilinear")  # an InterpolationMode
        parts = {"crop_size": [224], "resize_size": [256], "interpolation": interpolation}
        return SimpleNamespace(**{**parts, "mean": list(MEAN), "std": list(STD), **change})

    def test_the_preset_is_taken_over(self) -> None:
        found = Preprocessing.from_torchvision(self.preset())
        assert fields(found, "resize", "resize_to", "interpolation") == ("shorter_side", 256, "bilinear")
        assert fields(found, "height", "width", "mean", "std", "jpeg_margin") == (224, 224, MEAN, STD, 0)

    def test_two_sizes_are_exact(self) -> None:
        found = Preprocessing.from_torchvision(self.preset(resize_size=[240, 232]))
        assert fields(found, "resize", "resize_to") == ("exact", (240, 232))

    def test_anything_else_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"not torchvision's preset .*weights\.transforms"):
            Preprocessing.from_torchvision(SimpleNamespace(transforms=[]))


class TestTransformers:
    def test_a_stretch_is_taken_over(self) -> None:
        found = Preprocessing.from_transformers(VIT)
        assert fields(found, "resize", "resize_to", "interpolation") == ("exact", None, "bilinear")
        assert fields(found, "height", "width", "mean", "jpeg_margin") == (224, 224, (0.5,) * 3, 0)

    def test_a_centre_crop_is_taken_over(self) -> None:
        found = Preprocessing.from_transformers({**VIT, **CROPPED, "resample": 3})
        assert fields(found, "resize", "resize_to", "interpolation") == ("shorter_side", 256, "bicubic")

    @pytest.mark.parametrize(
        ("side", "expected"),
        [(224, ("shorter_side", 256, 224)), (384, ("exact", None, 384))],
    )
    def test_convnexts_rule_is_followed(self, side: int, expected: tuple[Any, ...]) -> None:
        config = {**VIT, "size": {"shortest_edge": side}, "crop_pct": 0.875}
        assert fields(Preprocessing.from_transformers(config), "resize", "resize_to", "height") == expected

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"size": 224}, ("exact", None)),
            ({"size": 224, "crop_pct": 0.875}, ("shorter_side", 256)),
            ({"size": 256, "do_center_crop": True, "crop_size": 224}, ("shorter_side", 256)),
        ],
    )
    def test_the_one_number_of_older_files_is_understood(
        self, change: dict[str, Any], expected: tuple[Any, ...]
    ) -> None:
        assert fields(Preprocessing.from_transformers({**VIT, **change}), "resize", "resize_to") == expected

    def test_a_factor_of_its_own_becomes_part_of_mean_and_std(self) -> None:
        # Pixels from -1 to 1.
        own = {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}
        found = Preprocessing.from_transformers({**VIT, **own})
        assert found.mean == pytest.approx((0.5,) * 3) and found.std == pytest.approx((0.5,) * 3)

    def test_efficientnets_second_division_becomes_part_of_std(self) -> None:
        assert Preprocessing.from_transformers({**VIT, "include_top": True}).std == (0.25,) * 3

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"do_flip_channel_order": True}, "do_flip_channel_order"),
            ({"rescale_offset": True}, "rescale_offset"),
            ({"patch_size": 14}, "patch_size"),
            ({"do_pad": True}, "do_pad"),
            ({"do_resize": False}, "do_resize is off"),
            ({"resample": None}, "no 'resample'"),
            ({"resample": 5}, "interpolation '5'"),
            ({"size": {"shortest_edge": 224}}, "set do_center_crop"),
            ({"size": {"shortest_edge": 224, "longest_edge": 400}}, "longest_edge"),
            ({**CROPPED, "size": {"shortest_edge": 200}}, "make resize_to at least 224"),
        ],
    )
    def test_what_cannot_be_reproduced_is_named(self, change: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            Preprocessing.from_transformers({**VIT, **change})

    def test_a_processor_itself_will_do(self) -> None:
        processor = SimpleNamespace(to_dict=lambda: VIT)
        assert Preprocessing.from_transformers(processor) == Preprocessing.from_transformers(VIT)
        with pytest.raises(ConfigError, match="int is not an image processor"):
            Preprocessing.from_transformers(3)
