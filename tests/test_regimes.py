"""Training families: what learns, what stays frozen, and from whom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.nn import functional

from offramp.authoring.recipes.named import RECIPES, recipe_named
from offramp.authoring.training.losses import distillation_loss
from offramp.authoring.training.regimes import phases
from offramp.authoring.training.run import load_network, training_s
from offramp.authoring.training.train import train
from offramp.errors import ConfigError
from tests.conftest import ROOT, SAMPLES
from tests.test_training import run_of, stripes

LOGITS = {1: torch.randn(5, 4, generator=torch.Generator().manual_seed(1))}
TEACHER = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
CLASSES = torch.tensor([0, 1, 2, 3, 0])


def distilled(logits: dict[int, torch.Tensor], classes: torch.Tensor = CLASSES, **how: Any) -> float:
    return distillation_loss(
        logits, TEACHER, classes, {1: 1.0}, **{"alpha": 1.0, "temperature": 2.0, **how}
    ).item()


def test_layer_wise_training_goes_from_exit_to_exit_and_takes_each_block_once() -> None:
    found = phases("layer-wise", (2, 3, 5), (1.0, 1.0, 1.0), frozen=True)
    assert [phase.blocks for phase in found] == [{1, 2}, {3}, {4, 5}]
    assert [phase.exits for phase in found] == [{1}, {2}, {3}]


def test_distillation_with_a_frozen_backbone_teaches_the_early_exits_only() -> None:
    (phase,) = phases("distill", (1, 2, 3), (0.5, 0.5, 1.0), frozen=True)
    assert not phase.blocks
    assert phase.exits == {1, 2}


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn() -> None:
    assert distilled({1: TEACHER}) == pytest.approx(0, abs=1e-6)


def test_alpha_0_is_cross_entropy_alone() -> None:
    assert distilled(LOGITS, alpha=0.0) == pytest.approx(functional.cross_entropy(LOGITS[1], CLASSES).item())


def test_alpha_1_looks_at_no_label() -> None:
    assert distilled(LOGITS) == distilled(LOGITS, torch.zeros(5, dtype=torch.long))


def test_distillation_is_t_squared_times_the_divergence() -> None:
    teacher, student = (torch.softmax(logits / 3, dim=1) for logits in (TEACHER, LOGITS[1]))
    divergence = (teacher * (teacher / student).log()).sum(dim=1).mean().item()
    assert distilled(LOGITS, temperature=3.0) == pytest.approx(9 * divergence, rel=1e-5)


def part(directory: Path, prefix: str) -> list[torch.Tensor]:
    state = load_network(directory).state_dict()
    return [value for name, value in state.items() if name.startswith(prefix)]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "backbone"
    train(stripes(), run_of(stripes(), regime="backbone", epochs=2), directory)
    return directory


@pytest.mark.training
class TestRegimes:
    def test_the_backbone_alone_leaves_the_early_exit_as_it_was_drawn(
        self, backbone: Path, tmp_path: Path
    ) -> None:
        train(stripes(), run_of(stripes(), regime="backbone"), tmp_path / "shorter")
        assert same(part(backbone, "eecs.1."), part(tmp_path / "shorter", "eecs.1."))
        assert not same(part(backbone, "blocks."), part(tmp_path / "shorter", "blocks."))

    @pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
    def test_a_frozen_backbone_is_not_touched_while_its_exit_learns(
        self, backbone: Path, tmp_path: Path, alpha: float
    ) -> None:
        run = run_of(stripes(), regime="distill", start=str(backbone), alpha=alpha)
        train(stripes(), run, tmp_path / "run")
        assert same(part(backbone, "blocks."), part(tmp_path / "run", "blocks."))
        assert same(part(backbone, "eecs.2."), part(tmp_path / "run", "eecs.2."))
        assert not same(part(backbone, "eecs.1."), part(tmp_path / "run", "eecs.1."))

    @pytest.mark.parametrize("regime", [{"regime": "distill", "frozen": False}, {"regime": "joint"}])
    def test_from_a_trained_backbone_everything_may_learn_on(
        self, backbone: Path, tmp_path: Path, regime: dict[str, Any]
    ) -> None:
        train(stripes(), run_of(stripes(), start=str(backbone), **regime), tmp_path / "run")
        for prefix in ("blocks.1", "blocks.0", "eecs.1.", "eecs.2."):
            assert not same(part(backbone, prefix), part(tmp_path / "run", prefix))

    def test_layer_wise_training_leaves_what_is_done_as_it_is(self, tmp_path: Path) -> None:
        train(stripes(), run_of(stripes(), regime="layer-wise"), tmp_path)
        first, second = (
            torch.load(tmp_path / f"phase-{n}.ckpt", weights_only=True)["state_dict"] for n in (1, 2)
        )
        done = [name for name in first if name.startswith(("network.blocks.0.", "network.eecs.1."))]
        assert all(torch.equal(first[name], second[name]) for name in done)
        assert (training_s(tmp_path) or 0) > 0

    def test_layer_wise_training_cut_off_between_phases_goes_on_with_the_next(self, tmp_path: Path) -> None:
        run = run_of(stripes(), regime="layer-wise")
        train(stripes(), run, tmp_path)
        whole = part(tmp_path, "")
        (tmp_path / "phase-2.ckpt").unlink()
        with pytest.raises(ConfigError, match="phase 2 of 2 has not finished"):
            load_network(tmp_path)
        train(stripes(), run, tmp_path, resume=True)
        for before, after in zip(whole, part(tmp_path, ""), strict=True):
            torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)

    def test_weights_of_the_exits_move_from_the_first_to_the_last_epoch(self, tmp_path: Path) -> None:
        for name, final in (("fixed", None), ("ramped", (0.0, 1.0))):
            train(stripes(), run_of(stripes(), epochs=2, final_exit_weights=final), tmp_path / name)
        assert not same(part(tmp_path / "fixed", ""), part(tmp_path / "ramped", ""))

    def test_an_external_teacher_needs_the_same_classes(self, backbone: Path, tmp_path: Path) -> None:
        run = run_of(stripes(), labels=("a", "b", "c"), regime="distill", teacher=str(backbone), frozen=False)
        with pytest.raises(ConfigError, match="choose a teacher with the same classes"):
            train(stripes(), run, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_two_processes_share_the_batches(self, tmp_path: Path) -> None:
        command = [
            *(sys.executable, "-m", "offramp.cli", "train", "b-lenet-fashion", "--data", str(SAMPLES)),
            *("--out", str(tmp_path / "run"), "--epochs", "2", "--validation", "60", "--devices", "2"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=110, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r"MEMBER: 2/2|2 processes", done.stdout + done.stderr)
        saved = torch.load(tmp_path / "run" / "phase-1.ckpt", weights_only=True)
        # 440 samples: 220 for each process, in batches of 64.
        assert saved["global_step"] == 2 * (220 // 64)
        assert all(torch.isfinite(p).all() for p in load_network(tmp_path / "run").parameters())


def test_distillation_without_a_trained_backbone_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--regime backbone"):
        train(stripes(), run_of(stripes(), regime="distill"), tmp_path / "run")


def test_a_start_of_another_recipe_is_refused(tmp_path: Path) -> None:
    start, images = run_of(stripes()), stripes()
    train(images, start, tmp_path / "lenet")
    other = start.provenance.model_copy(update={"recipe": "b-alexnet-cifar10"})
    with pytest.raises(ConfigError, match="start from a run of the same recipe"):
        train(
            images,
            start.model_copy(update={"provenance": other, "start": str(tmp_path / "lenet")}),
            tmp_path / "r",
        )


@pytest.mark.parametrize("frozen", [True, False])
def test_a_recipe_whose_backbone_is_trained_already_teaches_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    trained = RECIPES["b-lenet-fashion"].changed(is_trained=True)
    monkeypatch.setitem(RECIPES, "b-lenet-fashion", trained)
    train(stripes(), run_of(stripes(), regime="distill", frozen=frozen), tmp_path / "run")
    lightning.seed_everything(0, verbose=False)
    drawn = [value for name, value in trained.build(3).state_dict().items() if name.startswith("blocks.")]
    assert same(drawn, part(tmp_path / "run", "blocks.")) == frozen


class TestOwnRecipes:
    def test_a_recipe_of_ones_own_is_imported_by_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(ROOT / "examples"))
        assert recipe_named("own_model:RECIPE").build(3).num_exits == 3

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("nowhere_to_be_found:RECIPE", "No module named 'nowhere_to_be_found'"),
            ("json:RECIPE", "has no attribute 'RECIPE'"),
            ("json:loads", "is a function, expected a Recipe"),
            (":RECIPE", "the recipe ':RECIPE' cannot be imported"),
        ],
    )
    def test_what_is_no_recipe_is_told(self, name: str, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            recipe_named(name)
