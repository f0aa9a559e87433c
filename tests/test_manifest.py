"""What a manifest may say, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from offramp.bundle import Manifest, OperatingPoint
from offramp.bundle.manifest import Preprocessing
from tests.builders import manifest_with


def changed(**parts: Any) -> dict[str, Any]:
    return {**manifest_with([True, True, True]).model_dump(), **parts}


def test_costs_add_up_along_the_way() -> None:
    manifest = manifest_with([True, False, True])
    assert manifest.exit_macs == (100 + 10, 100 + 10 + 200 + 300 + 30)
    assert manifest.backbone_macs == 100 + 200 + 300 + 30
    assert manifest.exit_blocks == (1, 3)


def test_the_id_follows_what_decides_an_answer() -> None:
    one, other = manifest_with([True, True]), manifest_with([True, True], labels=("yes", "no"))
    assert one.bundle_id != other.bundle_id
    assert one.bundle_id.startswith("scripted-")


def test_the_id_does_not_follow_theta() -> None:
    points = (OperatingPoint(name="full", thetas=(0.3,), split_point=2),)
    calibrated = manifest_with([True, True], operating_points=points)
    assert calibrated.bundle_id == manifest_with([True, True]).bundle_id


def point(**changes: Any) -> dict[str, Any]:
    return (
        OperatingPoint(name="full", thetas=(0.5, 0.5), split_point=2).model_copy(update=changes).model_dump()
    )


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"bundle_id": "scripted-000000000000"}, "its contents make it"),
        ({"labels": ("only",)}, "labels"),
        ({"surprise": 1}, "surprise"),
        ({"format_version": 2}, "format_version"),
        ({"default_operating_point": "nowhere"}, "not one of full"),
        ({"operating_points": ()}, "operating_points"),
        ({"operating_points": (point(), point())}, "share a name"),
        ({"operating_points": (point(thetas=(0.5,)),)}, "3 exits need 2"),
        ({"operating_points": (point(thetas=(0.5, 1.5)),)}, "less than or equal to 1"),
        ({"operating_points": (point(split_point=9),)}, "only 3 blocks"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(parts: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Manifest.model_validate(changed(**parts))


@pytest.mark.parametrize(
    ("block", "change", "says"),
    [
        (1, {"number": 5}, "block 2 is numbered 5"),
        (1, {"input": {"shape": (7,), "dtype": "float32"}}, "block 2 takes"),
        (
            1,
            {"exit": {"number": 3, "measure": "entropy", "temperature": 1, "macs": 1}},
            "exit 2 is numbered 3",
        ),
        (1, {"exit": {"number": 2, "measure": "luck", "temperature": 1, "macs": 1}}, "measure"),
        (1, {"exit": {"number": 2, "measure": "entropy", "temperature": 0, "macs": 1}}, "temperature"),
        (1, {"feature": None}, "every block but the last"),
        (2, {"feature": {"shape": (1,), "dtype": "float32"}}, "every block but the last"),
        (2, {"exit": None}, "never be answered"),
        (0, {"file": "../escape.onnx"}, "file"),
        (0, {"file": "/etc/passwd"}, "file"),
        (0, {"sha256": "abc"}, "sha256"),
    ],
)
def test_blocks_that_do_not_fit_together_are_refused(block: int, change: dict[str, Any], says: str) -> None:
    blocks = list(changed()["blocks"])
    blocks[block] = {**blocks[block], **change}
    with pytest.raises(ValidationError, match=says):
        Manifest.model_validate(changed(blocks=tuple(blocks)))


def test_preprocessing_needs_a_mean_and_a_std_for_each_channel() -> None:
    with pytest.raises(ValidationError, match="RGB needs 3 values"):
        Preprocessing(height=8, width=8, mode="RGB", mean=(0.5,), std=(0.5,))


def test_a_point_nobody_named_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        manifest_with([True]).point_named("nowhere")
