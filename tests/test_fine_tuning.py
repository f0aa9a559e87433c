"""Fine-tuning: learning rates, averages, the best epoch, and what is done to the images."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offramp.authoring.data import split_train
from offramp.authoring.recipes.named import RECIPES
from offramp.authoring.recipes.recipe import Augmentation, RecipeValues
from offramp.authoring.selection.guarantee import halves
from offramp.authoring.training.keeping import SCORE, judging_part
from offramp.authoring.training.learning import PhaseTraining
from offramp.authoring.training.optimizers import optimizer_of, schedule_of
from offramp.authoring.training.progress import ProgressLines
from offramp.authoring.training.run import load_network, load_run
from offramp.authoring.training.train import train
from offramp.bundle.provenance import Split
from offramp.cli.train_options import TrainOptions
from offramp.errors import ConfigError
from tests.commands import check_refused, offramp
from tests.conftest import SAMPLES
from tests.test_training import interrupt_in_epoch, weights
from tests.tiny import TINY, TINY_NAME, noise, tiny_network, tiny_run

FINE: dict[str, Any] = {
    "epochs": 4,
    "accumulate": 2,
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "schedule": "cosine",
    "warmup": 1.0,
    "backbone_rate": 0.2,
    "layer_decay": 0.5,
    "clip": 1.0,
    "ema": 0.8,
    "keep": "best",
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "augmentation": Augmentation(crop=(0.4, 1), rand_augment=(2, 9), colour=0.3, mirror=True, mixup=0.2),
}


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, TINY_NAME, TINY)


def scripted(monkeypatch: pytest.MonkeyPatch, scores: Sequence[float]) -> None:
    """Let the epochs have these scores."""
    monkeypatch.setattr(
        PhaseTraining,
        "on_validation_epoch_end",
        lambda self: self.log(SCORE, torch.tensor(scores[self.current_epoch])),
    )


def logged(directory: Path) -> list[dict[str, str]]:
    with (directory / "log" / "version_0" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row[SCORE]]


def saved(directory: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(directory / name, weights_only=True)
    return found


class TestRates:
    def test_earlier_blocks_learn_more_slowly_and_exits_fastest(self) -> None:
        recipe = TINY.changed(learning_rate=0.1, backbone_rate=0.5, layer_decay=0.1, optimizer="adamw")
        network = tiny_network()
        found = {
            id(p): (group["lr"], group["weight_decay"])
            for group in optimizer_of(network, recipe).param_groups
            for p in group["params"]
        }
        first, eec = network.blocks[0][0], network.eecs["1"][-1]  # type: ignore[index]
        assert found[id(first.weight)] == pytest.approx((0.1 * 0.5 * 0.01, 5e-4))
        assert found[id(network.blocks[2][0].weight)] == pytest.approx((0.1 * 0.5, 5e-4))  # type: ignore[index]
        assert found[id(eec.weight)] == pytest.approx((0.1, 5e-4))
        assert found[id(first.bias)][1] == 0, "AdamW alone would decay biases too"

    @pytest.mark.parametrize(
        ("changes", "highest_at"),
        [
            ({"schedule": "cosine"}, 0),
            ({"schedule": "cosine", "warmup": 3.0}, 30),
            ({"schedule": "one_cycle"}, 19),
            ({"schedule": "one_cycle", "warmup": 5.0}, 49),
        ],
    )
    def test_the_rate_rises_for_the_warm_up_and_then_falls(
        self, changes: dict[str, Any], highest_at: int
    ) -> None:
        recipe = TINY.changed(epochs=10, learning_rate=0.1, **changes)
        optimizer = optimizer_of(tiny_network(), recipe)
        schedule = schedule_of(optimizer, recipe, steps=100)
        assert schedule is not None
        rates = []
        for _ in range(100):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert rates.index(max(rates)) == highest_at and max(rates) == pytest.approx(0.1)
        assert rates[-1] < 1e-4

    def test_a_warm_up_that_never_ends_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"rises for 5 epochs of 3; .*--warmup"):
            train(noise(), tiny_run(noise(), epochs=3, warmup=5), tmp_path / "run")


@pytest.mark.training
class TestFrozenBlocks:
    def test_they_stay_as_they_are_while_the_others_learn(self, tmp_path: Path) -> None:
        train(noise(), tiny_run(noise()), tmp_path / "first")
        run = tiny_run(noise(), frozen_blocks=1).model_copy(update={"start": str(tmp_path / "first")})
        train(noise(), run, tmp_path / "run")
        before, after = (load_network(tmp_path / name).state_dict() for name in ("first", "run"))
        stayed = {name for name, value in before.items() if torch.equal(value, after[name])}
        assert stayed == {name for name in before if name.startswith("blocks.0.")}

    @pytest.mark.parametrize(
        ("blocks", "is_trained", "says"),
        [(3, True, "the network has 3 blocks"), (1, False, "backbone is untrained; .*--start")],
    )
    def test_more_than_can_be_frozen_is_refused(
        self, tmp_path: Path, blocks: int, is_trained: bool, says: str
    ) -> None:
        run = tiny_run(noise(), frozen_blocks=blocks, is_trained=is_trained)
        with pytest.raises(ConfigError, match=f"frozen_blocks is {blocks}, but .*{says}"):
            train(noise(), run, tmp_path / "run")


@pytest.mark.training
class TestKeeping:
    def test_the_best_epoch_is_what_is_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted(monkeypatch, [0.1, 0.9, 0.9, 0.3])
        train(noise(), tiny_run(noise(), epochs=4, keep="best"), tmp_path)
        assert saved(tmp_path, "phase-1-best.ckpt")["epoch"] == 1, "of equal epochs, the first"
        best = saved(tmp_path, "phase-1-best.ckpt")["state_dict"]
        found = load_network(tmp_path).state_dict()
        assert all(torch.equal(value, best[f"network.{name}"]) for name, value in found.items())

    def test_training_stops_when_patience_ends_and_stays_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scripted(monkeypatch, [0.1, 0.9, 0.3, 0.9, 1.0, 1.0])
        run = tiny_run(noise(), epochs=6, patience=2)
        for resume in (False, True):
            train(noise(), run, tmp_path, resume=resume)
            assert saved(tmp_path, "phase-1.ckpt")["epoch"] == 3

    def test_the_next_phase_starts_from_the_best_epoch_of_the_one_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scripted(monkeypatch, [0.9, 0.1])
        train(noise(), tiny_run(noise(), epochs=2, keep="best", regime="layer-wise"), tmp_path)
        first, last = (saved(tmp_path, name)["state_dict"] for name in ("phase-1-best.ckpt", "phase-3.ckpt"))
        done = [name for name in first if name.startswith(("network.blocks.0.", "network.eecs.1."))]
        assert all(torch.equal(first[name], last[name]) for name in done)
        assert not torch.equal(saved(tmp_path, "phase-1.ckpt")["state_dict"][done[0]], first[done[0]]), (
            "the last epoch of phase 1 had others"
        )

    def test_the_average_is_what_is_judged_and_what_is_saved(self, tmp_path: Path) -> None:
        images = noise(200)
        train(images, tiny_run(images, epochs=3, ema=0.95, learning_rate=0.02, batch_size=8), tmp_path)
        checkpoint = saved(tmp_path, "phase-1.ckpt")
        name = "network.blocks.0.0.weight"
        assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])
        judges = judging_part(split_train(images, Split(seed=0, validation=16)).validation)
        image_BCHW = (torch.from_numpy(judges.pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            answers = [logits.argmax(1).numpy() for logits in load_network(tmp_path)(image_BCHW)]
        right = np.mean([answer == judges.classes for answer in answers])
        assert float(logged(tmp_path)[-1][SCORE]) == pytest.approx(right)

    def test_the_half_that_tests_thresholds_plays_no_part(self, tmp_path: Path) -> None:
        images, split = noise(), Split(seed=0, validation=16)
        marked = replace(images, classes=np.arange(len(images)))
        held_out = split_train(marked, split).validation
        testing = held_out.classes[halves(16)[1]]
        other = images.classes.copy()
        other[testing] = (other[testing] + 1) % 4
        changes: dict[str, Any] = {"epochs": 3, "keep": "best", "patience": 2}
        for name, classes in (("one", images.classes), ("other", other)):
            train(replace(images, classes=classes), tiny_run(images, **changes), tmp_path / name)
        assert logged(tmp_path / "one") == logged(tmp_path / "other")
        assert torch.equal(weights(tmp_path / "one"), weights(tmp_path / "other"))

    def test_a_run_with_everything_that_was_cut_off_ends_where_one_in_one_go_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = noise()
        run = tiny_run(images, **FINE, patience=3)
        train(images, run, tmp_path / "whole")
        with monkeypatch.context() as patch:
            interrupt_in_epoch(patch, 2)
            with pytest.raises(OSError, match="power cut"):
                train(images, run, tmp_path / "cut")
        train(images, run, tmp_path / "cut", resume=True)
        torch.testing.assert_close(
            weights(tmp_path / "whole"), weights(tmp_path / "cut"), rtol=1e-5, atol=1e-6
        )
        whole, cut = (saved(tmp_path / name, "phase-1-best.ckpt") for name in ("whole", "cut"))
        assert whole["epoch"] == cut["epoch"]
        assert whole["global_step"] == (whole["epoch"] + 1) * 2, "four batches, two for each step"


@pytest.mark.training
def test_lines_tell_the_progress_within_an_epoch_and_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "offramp.authoring.training.train.progress_of", lambda *_: ProgressLines("1/1", every_s=0)
    )
    with caplog.at_level(logging.INFO, "offramp.train"):
        train(noise(), tiny_run(noise(), epochs=2), tmp_path)
    lines = [each.getMessage() for each in caplog.records if each.name == "offramp.train"]
    assert len(lines) == 2 * (2 + 1), "two batches in each epoch"
    assert lines[0].startswith("event=training phase=1/1 epoch=1/2 batch=1/2 loss=")
    assert "exit_3=" in lines[-1] and lines[-1].endswith("left_s=0")
    assert "loss=0.000" not in lines[-1]


class TestOptions:
    def test_every_value_of_a_recipe_has_an_option_of_its_name(self) -> None:
        values = {*RecipeValues.model_fields, *Augmentation.model_fields}
        without = values - set(TrainOptions.model_fields)
        assert without == {"preprocessing", "augmentation", "split_point", "is_trained", "backbone_labels"}

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--crop", "0.5"), "--crop is '0.5'; write 2 numbers, such as 0.35,1"),
            (("--crop", "0.9,0.3"), "the smallest share, 0.9, is above the largest, 0.3"),
            (("--crop", "0.9,1.3"), "--crop is 1.3: should be less than or equal to 1"),
            (("--ema", "1"), "--ema is 1.0: should be less than 1"),
            (("--epochs", "0"), "--epochs is 0: should be greater than or equal to 1"),
            (("--optimizer", "adam"), "--optimizer"),
            (("--warmup", "60"), "--warmup"),
        ],
    )
    def test_a_wrong_value_is_told_with_its_option(
        self, tmp_path: Path, options: Sequence[str], says: str
    ) -> None:
        found = offramp(
            *("train", "b-lenet-fashion", "--data", SAMPLES, "--out", tmp_path / "run", "--validation", "60"),
            *options,
        )
        check_refused(found, says)
        assert not (tmp_path / "run").exists()

    @pytest.mark.training
    def test_the_run_records_what_the_options_changed(self, tmp_path: Path) -> None:
        options = "--optimizer adamw --learning-rate 0.001 --ema 0.9 --shift 3 --no-mirror --mixup 0.4"
        found = offramp(
            *("train", "b-lenet-fashion", "--data", SAMPLES, "--out", tmp_path / "run"),
            *("--epochs", "1", "--validation", "60", *options.split()),
        )
        assert found.exit_code == 0, found.output
        recipe = load_run(tmp_path / "run").recipe
        assert recipe.augmentation == Augmentation(shift=3, mirror=False, mixup=0.4)
        assert (recipe.optimizer, recipe.learning_rate, recipe.ema) == ("adamw", 0.001, 0.9)
        assert (recipe.epochs, recipe.validation, recipe.batch_size) == (1, 60, 128)
