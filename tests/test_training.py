"""Joint training: seeded, resumable, and stopped when it goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from offramp.authoring.data import LabelledImages
from offramp.authoring.recipes import named
from offramp.authoring.recipes.recipe import RecipeValues
from offramp.authoring.training.claim import claimed
from offramp.authoring.training.run import Run, load_network, load_run
from offramp.authoring.training.train import train
from offramp.bundle.provenance import Data, Provenance, Split
from offramp.errors import ConfigError, DataError

RECIPE = "b-lenet-fashion"


def stripes(count: int = 300) -> LabelledImages:
    """Images of three kinds of stripes, with noise: learned in an epoch or two."""
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 3, count)
    grid = np.arange(28)
    kinds = (
        np.stack([np.add.outer(grid, grid * 0), np.add.outer(grid * 0, grid), np.add.outer(grid, grid)])
        // 4
        % 2
    )
    pixels = (kinds[classes] * 150 + generator.integers(0, 100, (count, 28, 28))).astype(np.uint8)
    return LabelledImages(pixels[..., np.newaxis], classes, ("rows", "columns", "diagonals"), ("",) * count)


def run_of(images: LabelledImages, *, epochs: int = 1, seed: int = 0, **changes: Any) -> Run:
    data = Data(
        name="stripes",
        samples=len(images),
        fingerprint=images.fingerprint(),
        split=Split(seed=seed, validation=60),
    )
    provenance = Provenance(
        commands=("train",), recipe=RECIPE, seed=seed, epochs=epochs, data=data, versions={}
    )
    values = {name: changes.pop(name) for name in list(changes) if name in RecipeValues.model_fields}
    recipe = named.recipe_named(RECIPE).values.changed(epochs=epochs, **values)
    return Run(**{"labels": images.labels, "provenance": provenance, "recipe": recipe, **changes})


def weights(directory: Path) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in load_network(directory).parameters()])


@pytest.mark.training
class TestTraining:
    def test_it_learns(self, tmp_path: Path) -> None:
        images = stripes()
        train(images, run_of(images, epochs=60, seed=1), tmp_path / "run")
        network = load_network(tmp_path / "run")
        image_BCHW = (torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255 - 0.2) / 0.33
        with torch.no_grad():
            for logits_BK in network(image_BCHW):
                right = (logits_BK.argmax(dim=1) == torch.from_numpy(images.classes)).float().mean()
                assert right > 0.8

    def test_the_same_seed_gives_the_same_weights(self, tmp_path: Path) -> None:
        images = stripes()
        for name, seed in (("one", 0), ("same", 0), ("other", 1)):
            train(images, run_of(images, seed=seed), tmp_path / name)
        assert torch.equal(weights(tmp_path / "one"), weights(tmp_path / "same"))
        assert not torch.equal(weights(tmp_path / "one"), weights(tmp_path / "other"))

    def test_a_run_that_was_cut_off_ends_where_one_in_one_go_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = stripes()
        train(images, run_of(images, epochs=2), tmp_path / "whole")
        with monkeypatch.context() as patch:
            interrupt_in_epoch(patch, 1)
            with pytest.raises(OSError, match="power cut"):
                train(images, run_of(images, epochs=2), tmp_path / "cut")
        train(images, run_of(images, epochs=2), tmp_path / "cut", resume=True)
        # The optimizer's state lies in memory in another order after loading: equal but for the last bit.
        torch.testing.assert_close(
            weights(tmp_path / "whole"), weights(tmp_path / "cut"), rtol=1e-5, atol=1e-6
        )

    def test_a_loss_that_is_no_number_stops_it_and_says_at_which_step(self, tmp_path: Path) -> None:
        images = stripes()
        with pytest.raises(ConfigError, match=r"loss is (nan|inf) at step \d+"):
            train(images, run_of(images, epochs=20, learning_rate=1e30), tmp_path / "run")

    def test_weights_of_the_exits_come_from_the_run(self, tmp_path: Path) -> None:
        images = stripes()
        train(images, run_of(images), tmp_path / "both")
        train(images, run_of(images, exit_weights=(0.0, 1.0)), tmp_path / "last")
        assert not torch.equal(weights(tmp_path / "both"), weights(tmp_path / "last"))


def interrupt_in_epoch(patch: pytest.MonkeyPatch, epoch: int) -> None:
    from offramp.authoring.training.learning import PhaseTraining

    step = PhaseTraining.training_step

    def interrupted(self: PhaseTraining, batch: Any, batch_index: int) -> Any:
        if self.current_epoch == epoch:
            raise OSError("power cut")
        return step(self, batch, batch_index)

    patch.setattr(PhaseTraining, "training_step", interrupted)


def check_claimed(directory: Path, run: Run, *, resume: bool, says: str) -> None:
    images = stripes()
    written = run_of(images).model_dump_json()
    (directory / "run.json").write_text(written)
    (directory / "phase-1.ckpt").touch()
    with pytest.raises(ConfigError, match=says):
        train(images, run, directory, resume=resume)
    assert (directory / "run.json").read_text() == written


def test_a_run_is_not_begun_over_another(tmp_path: Path) -> None:
    check_claimed(tmp_path, run_of(stripes()), resume=False, says="already has a run")


@pytest.mark.parametrize("changes", [{"epochs": 2}, {"seed": 1}, {"exit_weights": (1.0, 2.0)}])
def test_a_run_is_not_resumed_with_other_settings(tmp_path: Path, changes: dict[str, Any]) -> None:
    check_claimed(tmp_path, run_of(stripes(), **changes), resume=True, says="other settings")


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    check_claimed(tmp_path, run_of(stripes(200)), resume=True, says="other settings")


@pytest.mark.training
def test_a_run_that_failed_before_its_first_checkpoint_leaves_its_directory_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = stripes()
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 0)
        with pytest.raises(OSError, match="power cut"):
            train(images, run_of(images, epochs=2), tmp_path)
    train(images, run_of(images, seed=1), tmp_path)
    assert load_run(tmp_path).provenance.seed == 1
    assert load_network(tmp_path).num_exits == 2


def test_two_trainings_do_not_share_a_directory(tmp_path: Path) -> None:
    run = run_of(stripes())
    with (
        claimed(tmp_path, run, resume=False),
        pytest.raises(ConfigError, match="another training is using"),
        claimed(tmp_path, run_of(stripes(), seed=1), resume=False),
    ):
        pass
    assert load_run(tmp_path) == run


@pytest.mark.training
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_training_may_be_as_short_as_one_step(tmp_path: Path, steps: int) -> None:
    images = stripes(100)  # 60 of them held out: one batch in each epoch
    run = run_of(images, epochs=steps)
    lightning.seed_everything(0, verbose=False)
    before = torch.cat([parameter.detach().flatten() for parameter in run.build(tmp_path).parameters()])
    train(images, run, tmp_path / "run")
    assert not torch.equal(weights(tmp_path / "run"), before)


def test_a_class_without_a_label_is_refused(tmp_path: Path) -> None:
    images = stripes()
    with pytest.raises(DataError, match="class 2, but 2 labels"):
        train(images, run_of(images, labels=("rows", "columns")), tmp_path / "run")


def test_a_directory_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a training run"):
        load_run(tmp_path)


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(run_of(stripes()).model_dump_json())
    with pytest.raises(ConfigError, match="has not finished its first epoch"):
        load_network(tmp_path)
