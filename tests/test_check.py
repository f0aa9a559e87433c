"""A recipe, its network and the data meet in one check, before anything is trained or written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from offramp.authoring.backbones.attach import attach_exits
from offramp.authoring.data import LabelledImages
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.lenet import b_lenet
from offramp.authoring.recipes import named
from offramp.authoring.training.train import train
from offramp.bundle.provenance import Split
from offramp.errors import ConfigError, DataError
from tests.test_training import RECIPE, run_of, stripes

COLOUR = {"mode": "RGB", "mean": (0.5,) * 3, "std": (0.3,) * 3}


def of_ten(_: int) -> EarlyExitNetwork:
    return b_lenet(10)


def unpooled(num_classes: int) -> EarlyExitNetwork:
    network = b_lenet(num_classes)
    return EarlyExitNetwork(list(network.blocks), {1: nn.Conv2d(5, num_classes, 1), 2: network.eecs["2"]})


def not_cut(num_classes: int) -> Any:
    return nn.Linear(28, num_classes)


def cut_for_14(num_classes: int) -> EarlyExitNetwork:
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
    return attach_exits(model, image_shape=(1, 14, 14), exits=(0.1,))


def in_colour(images: LabelledImages) -> LabelledImages:
    return replace(images, pixels=np.repeat(images.pixels[:], 3, axis=3))


def check_refused(directory: Path, images: LabelledImages, says: str, **changes: Any) -> None:
    with pytest.raises((ConfigError, DataError), match=says) as refused:
        train(images, run_of(images, **changes), directory / "run")
    assert "\n" not in str(refused.value)
    assert not (directory / "run").exists(), "the corrected command finds its directory free"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exit_weights": (1.0,)}, r"exit_weights has 1 values, .* 2 exits; .* --exit-weights 1,1"),
        ({"exit_weights": (1.0,) * 3}, r"exit_weights has 3 values, .* 2 exits"),
        ({"exit_weights": (0.0, 0.0)}, r"exit_weights is \(0.0, 0.0\); expected .* above 0"),
        ({"exit_weights": (2.0, -1.0)}, r"exit_weights is \(2.0, -1.0\); expected numbers of 0 or more"),
        ({"split_point": 3}, r"split_point is 3, but the network has blocks 1 to 2; give .* 2 to 2"),
        ({"build": of_ten}, r"exit 1 has 10 classes, but there are 3 labels; build"),
        (
            {"build": unpooled},
            r"exit 1 returns a tensor of shape \(1, 3, .*expected logits of shape \(1, 3\)",
        ),
        ({"build": not_cut}, r"builds a Linear, expected an EarlyExitNetwork; .* attach_exits"),
        ({"build": cut_for_14}, r"shape \(1, 28, 28\), but attach_exits cut the network for \(1, 14, 14\)"),
    ],
)
def test_a_recipe_that_does_not_fit_its_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.setitem(named.RECIPES, RECIPE, named.RECIPES[RECIPE].changed(**changes))
    check_refused(tmp_path, stripes(100), says)


def test_an_image_that_the_network_cannot_take_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = named.RECIPES[RECIPE]
    colour = recipe.preprocessing.model_copy(update=COLOUR)
    monkeypatch.setitem(named.RECIPES, RECIPE, recipe.changed(preprocessing=colour))
    check_refused(tmp_path, in_colour(stripes(100)), r"fails on an image of shape \(3, 28, 28\), which")


def test_images_of_another_shape_than_the_recipe_makes_are_refused(tmp_path: Path) -> None:
    check_refused(tmp_path, in_colour(stripes(100)), r"shape \(28, 28, 3\), expected \(28, 28, 1\)")


def test_final_weights_are_as_many_as_the_exits(tmp_path: Path) -> None:
    check_refused(
        tmp_path, stripes(100), "final_exit_weights has 3 values, .* --final", final_exit_weights=(1.0,) * 3
    )


@pytest.mark.parametrize(("validation", "works"), [(100, 20), (5000, 20)])
def test_holding_out_all_there_is_names_the_option_and_a_number_that_works(
    tmp_path: Path, validation: int, works: int
) -> None:
    images = stripes(100)
    provenance = run_of(images).provenance
    data = provenance.data.model_copy(update={"split": Split(seed=0, validation=validation)})
    check_refused(
        tmp_path,
        images,
        f"{validation} samples are to be held out .* only 100; .* --validation {works}",
        provenance=provenance.model_copy(update={"data": data}),
    )


def test_too_few_labels_name_the_option(tmp_path: Path) -> None:
    check_refused(tmp_path, stripes(100), "class 2, but 2 labels .* --labels", labels=("rows", "columns"))
