"""A run keeps what its recipe said when it was trained; the recipe by name only builds the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.layers import pooled_linear
from offramp.authoring.recipes.named import RECIPES, recipe_named
from offramp.authoring.recipes.recipe import Augmentation
from offramp.authoring.training.run import load_network, load_run
from offramp.authoring.training.train import train
from offramp.bundle import load_bundle
from offramp.errors import ConfigError
from tests.commands import check_refused, offramp
from tests.tiny import COLOUR_8, TINY, TINY_NAME, noise, tiny_network, tiny_run


def wider(num_classes: int) -> EarlyExitNetwork:
    blocks = list(tiny_network(num_classes).blocks)
    blocks[1] = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
    blocks[2] = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    eecs = {1: pooled_linear(8, num_classes), 2: pooled_linear(16, num_classes)}
    return EarlyExitNetwork(blocks, {**eecs, 3: pooled_linear(16, num_classes)})


def with_fewer_exits(num_classes: int) -> EarlyExitNetwork:
    network = tiny_network(num_classes)
    return EarlyExitNetwork(list(network.blocks), {1: network.eecs["1"], 3: network.eecs["3"]})


def edit(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setitem(RECIPES, TINY_NAME, TINY.changed(**changes))


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    edit(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        edit(patch)
        train(noise(), tiny_run(noise(), learning_rate=0.02), directory)
    return directory


@pytest.mark.training
class TestARecipeThatWasEdited:
    def test_its_values_change_nothing_for_an_old_run(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = load_run(trained)
        darker = COLOUR_8.model_copy(update={"mean": (0.1,) * 3})
        edit(monkeypatch, preprocessing=darker, split_point=3, exit_weights=(5, 5, 5))
        assert load_run(trained) == before
        assert before.recipe.preprocessing.mean == (0.5,) * 3
        assert before.recipe.learning_rate == 0.02, "the command line's change is kept too"

    def test_a_bundle_exported_later_has_the_old_ones(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        edit(monkeypatch, preprocessing=COLOUR_8.model_copy(update={"mean": (0.1,) * 3}), split_point=3)
        found = offramp("export", trained, "--out", tmp_path / "bundle")
        assert found.exit_code == 0, found.output
        manifest = load_bundle(tmp_path / "bundle").manifest
        assert manifest.preprocessing.mean == (0.5,) * 3 and manifest.operating_point.split_point == 2

    @pytest.mark.parametrize(
        ("build", "says"),
        [
            (
                wider,
                r"in block 2, 'blocks.1.0.weight' has shape \(8, 8, 3, 3\) in the checkpoint and \(16, 8",
            ),
            (with_fewer_exits, r"the exit behind block 2 no longer has 'eecs.2"),
        ],
    )
    def test_another_network_is_told_with_the_part_that_differs(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch, build: Any, says: str
    ) -> None:
        edit(monkeypatch, build=build)
        with pytest.raises(ConfigError, match=says) as refused:
            load_network(trained)
        assert "\n" not in str(refused.value) and "change the recipe back" in str(refused.value)

    def test_another_network_is_told_before_a_run_is_resumed(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        edit(monkeypatch, build=wider)
        with pytest.raises(ConfigError, match=r"in block 2, 'blocks.1.0.weight' has shape"):
            train(noise(), load_run(trained), trained, resume=True)

    def test_a_run_started_with_other_values_is_not_resumed_and_the_value_is_named(
        self, trained: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"recipe.weight_decay is 0.0005 there and 0.1 here"):
            train(noise(), tiny_run(noise(), learning_rate=0.02, weight_decay=0.1), trained, resume=True)

    def test_a_recipe_that_is_gone_is_told_in_one_line(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(RECIPES, TINY_NAME)
        check_refused(offramp("export", trained, "--out", tmp_path / "b"), "'tiny'", "cannot be found")


def test_every_recipe_survives_the_way_to_disk_and_back() -> None:
    for recipe in RECIPES.values():
        values = recipe.values
        assert type(values).model_validate_json(values.model_dump_json()) == values
        assert "build" not in recipe.model_dump()


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TINY.learning_rate = 1.0  # type: ignore[misc]


def test_a_value_that_no_recipe_may_have_is_named_with_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from tests.tiny import TINY\nRECIPE = TINY.changed(augmentation={'shift': -1})\n"
    (tmp_path / "wrong_recipe.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"'wrong_recipe:RECIPE' .* augmentation.shift is -1"):
        recipe_named("wrong_recipe:RECIPE")


def test_a_changed_recipe_keeps_its_other_values() -> None:
    moved = TINY.changed(augmentation=Augmentation(shift=1))
    assert moved.build is TINY.build and moved.exit_weights == (1.0, 1.0, 1.0)
