"""Cached features: computed once, the same as computed anew, shared, and never half."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from offramp.authoring.data.split import TrainValidation, parts_of
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.lenet import b_lenet
from offramp.authoring.recipes.recipe import Augmentation
from offramp.authoring.training.batches import training_batches
from offramp.authoring.training.feature_batches import training_features, validation_features
from offramp.authoring.training.features import CachedParts, cache_features
from offramp.authoring.training.frozen import Front, front_of
from offramp.authoring.training.logits import logits_of
from offramp.authoring.training.run import Run, load_network
from offramp.authoring.training.train import train
from offramp.errors import ConfigError
from tests.commands import offramp
from tests.conftest import SAMPLES
from tests.test_regimes import backbone, part, same  # noqa: F401 - a fixture
from tests.test_training import RECIPE, run_of, stripes
from tests.tiny import tiny_network


def of_the_run(run: Run, network: EarlyExitNetwork) -> tuple[Front, TrainValidation]:
    (phase,) = run.phases(network)
    front = front_of(network, phase, network if run.regime == "distill" else None)
    assert front is not None
    return front, parts_of(stripes(), run.provenance.data)


def cached(directory: Path, network: EarlyExitNetwork | None = None, **changes: Any) -> CachedParts:
    torch.manual_seed(0)
    run = run_of(stripes(), **{"regime": "exits", **changes})
    front, parts = of_the_run(run, network or b_lenet(3))
    return cache_features(front, parts, run, directory)


@contextmanager
def counted(network: EarlyExitNetwork) -> Iterator[list[int]]:
    """How many photos each call of block 1 gets."""
    calls: list[int] = []
    handle = network.blocks[0].register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    yield calls
    handle.remove()


@pytest.mark.parametrize("learning", [frozenset({2, 3}), frozenset({3}), frozenset[int]()])
def test_exits_answer_on_known_features_as_they_do_on_photos(learning: frozenset[int]) -> None:
    network, image_BCHW = tiny_network().eval(), torch.randn(5, 3, 8, 8)
    (phase,) = run_of(stripes(), regime="exits", exit_weights=(1.0, 1.0)).phases(network)
    front = front_of(network, replace(phase, blocks=learning), network)
    assert front is not None and front.blocks == min(learning, default=4) - 1
    with torch.no_grad():
        known = front.compute(image_BCHW, front.names)
        found = front.answers(known, [1, 2, 3])
        expected = network.logits_at(image_BCHW, [1, 2, 3])
    assert found.taught_BK is not None
    torch.testing.assert_close(dict(found.logits_by_exit), expected)
    torch.testing.assert_close(found.taught_BK, expected[3])


def test_of_a_pooling_exit_only_the_pooled_feature_is_kept(tmp_path: Path) -> None:
    network, image_BCHW = tiny_network(), torch.zeros(2, 3, 8, 8)
    (phase,) = run_of(stripes(), regime="exits").phases(network)
    front = front_of(network, phase, None)
    assert front is not None
    found = front.compute(image_BCHW, front.names)
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == {
        "exit-1": (8,),
        "exit-2": (8,),
        "exit-3": (16,),
    }


def test_batches_of_features_come_in_the_order_of_the_photos(tmp_path: Path) -> None:
    run = run_of(stripes(), regime="exits")
    _, parts = of_the_run(run, b_lenet(3))
    features = cached(tmp_path)
    pairs = zip(
        training_batches(parts.train, 64, 5, 1), training_features(features.train, 64, 5, 1), strict=True
    )
    assert all(torch.equal(photo[1], feature[1]) for photo, feature in pairs)
    classes = torch.cat([class_B for _, class_B in validation_features(features.validation)])
    assert classes.tolist() == parts.validation.classes.tolist()


def test_features_on_disk_are_those_of_their_photos(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = b_lenet(3)
    features = cached(tmp_path, network)
    run = run_of(stripes(), regime="exits")
    front, parts = of_the_run(run, network)
    found = front.answers(next(iter(validation_features(features.validation)))[0], [1, 2])
    for logits, expected in zip(
        found.logits_by_exit.values(), logits_of(network, parts.validation, run.recipe), strict=True
    ):
        np.testing.assert_allclose(logits.detach().numpy(), expected, atol=0.02)


def test_each_epoch_takes_another_view_and_the_first_view_is_the_plain_photo(tmp_path: Path) -> None:
    plain = cached(tmp_path / "1").train
    three = cached(tmp_path / "3", views=3, augmentation=Augmentation(shift=4)).train
    rows = {
        name: file.read(range(3 * len(three.classes))).reshape(3, len(three.classes), -1)
        for name, file in three.files.items()
    }
    name = next(iter(rows))
    np.testing.assert_array_equal(
        rows[name][0], plain.files[name].read(range(len(plain.classes))).reshape(len(plain.classes), -1)
    )
    assert (rows[name][1] != rows[name][2]).any(axis=1).mean() > 0.9
    loader = training_features(three, 16, 0, 1)
    order = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        order.append(sorted(loader.sampler))
    photos = len(three.classes)
    assert all(sorted(row % photos for row in rows) == list(range(photos)) for rows in order)
    assert sorted(row for rows in order for row in rows) == list(range(3 * photos))


def test_a_complete_cache_is_used_again_and_a_half_one_is_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = b_lenet(3)
    with counted(network) as calls:
        cached(tmp_path, network)
        first = sum(calls)
        cached(tmp_path, network)
        again = sum(calls) - first
        half = next(tmp_path.glob("train-exit-1-*"))
        half.rename(half.with_name(half.name + ".part"))
        cached(tmp_path, network)
    assert first == 300 + again
    assert sum(calls) == 300 + 3 * again + 240
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("change", ["weights", "view", "code"])
def test_what_would_give_other_features_is_not_served_from_the_cache(tmp_path: Path, change: str) -> None:
    torch.manual_seed(0)
    network = b_lenet(3)
    cached(tmp_path, network)
    if change == "weights":
        next(network.blocks[0].parameters()).data *= 1.01
    if change == "code":
        network.blocks[0].register_forward_hook(lambda _, __, feature: feature + 1)
    with counted(network) as calls:
        cached(tmp_path, network, views=2 if change == "view" else 1)
    assert sum(calls) > 400


def test_features_too_large_for_float16_are_kept_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = b_lenet(3)
    network.blocks[0].register_forward_hook(lambda _, __, feature: feature * 1e6)
    found = cached(tmp_path, network).train.files["exit-1"].read([0])
    assert found.dtype == np.float32 and 65504 < found.max() < np.inf


def test_a_network_that_computes_nan_is_refused(tmp_path: Path) -> None:
    network = b_lenet(3)
    network.blocks[0].register_forward_hook(lambda _, __, feature: feature * torch.nan)
    with pytest.raises(ConfigError, match="computes NaN or infinite values"):
        cached(tmp_path, network)


def test_a_full_disk_is_noticed_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000))
    with pytest.raises(ConfigError, match=r"need 0\.\d+ GB, but .* choose another disk with --features"):
        cached(tmp_path)
    assert not list(tmp_path.glob("*.npy*"))


def test_views_without_a_frozen_block_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this training changes every block"):
        train(stripes(), run_of(stripes(), regime="joint", views=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_exits_without_a_trained_backbone_say_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exits learn on a trained backbone; give --start RUN"):
        train(stripes(), run_of(stripes(), regime="exits"), tmp_path / "run")


@pytest.mark.training
class TestTraining:
    @pytest.mark.parametrize("views", [0, 1, 2])
    def test_every_exit_learns_and_no_block_does(
        self,
        backbone: Path,  # noqa: F811
        tmp_path: Path,
        views: int,
    ) -> None:
        run = run_of(stripes(), regime="exits", start=str(backbone), views=views, epochs=15)
        train(stripes(), run, tmp_path / "run")
        assert same(part(backbone, "blocks."), part(tmp_path / "run", "blocks."))
        assert not same(part(backbone, "eecs.2."), part(tmp_path / "run", "eecs.2."))
        first, _ = logits_of(load_network(tmp_path / "run"), stripes(), run.recipe)
        assert (first.argmax(axis=1) == stripes().classes).mean() > 0.8
        assert not (tmp_path / "run" / "features").exists()

    @pytest.mark.parametrize("alpha", [0.5, 1.0])
    def test_without_augmentation_it_learns_what_it_learns_from_photos(
        self,
        backbone: Path,  # noqa: F811
        tmp_path: Path,
        alpha: float,
    ) -> None:
        found = []
        for views in (0, 1):
            run = run_of(
                stripes(),
                regime="distill",
                start=str(backbone),
                alpha=alpha,
                views=views,
                epochs=4,
                augmentation=Augmentation(),
            )
            train(stripes(), run, tmp_path / str(views))
            found.append(torch.cat([value.flatten() for value in part(tmp_path / str(views), "eecs.1.")]))
        start = torch.cat([value.flatten() for value in part(backbone, "eecs.1.")])
        photos, features = found
        assert (features - photos).norm() < 0.1 * (photos - start).norm()

    def test_later_phases_of_layer_wise_training_run_on_the_exit_before(self, tmp_path: Path) -> None:
        train(stripes(), run_of(stripes(), regime="layer-wise", views=1), tmp_path, features=tmp_path / "f")
        assert {path.name.rpartition("-")[0] for path in (tmp_path / "f").glob("*.npy")} == {
            "train-block-1",
            "validation-block-1",
        }

    def test_two_trainings_share_the_features_they_have_in_common(self, tmp_path: Path) -> None:
        shared, command = tmp_path / "shared", ("train", RECIPE, "--data", SAMPLES, "--validation", "60")
        start = offramp(*command, "--out", tmp_path / "b", "--regime", "backbone", "--epochs", "1")
        assert start.exit_code == 0, start.output
        more = ("--start", tmp_path / "b", "--features", shared, "--epochs", "1")
        for name, regime in (("one", "exits"), ("two", "distill")):
            found = offramp(*command, "--out", tmp_path / name, "--regime", regime, *more)
            assert found.exit_code == 0, found.output
        names = sorted(path.name.rpartition("-")[0] for path in shared.glob("train-*.npy"))
        assert names == ["train-exit-1", "train-exit-2", "train-teacher"]
