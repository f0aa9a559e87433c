"""Checks that a run, its network and its data fit together, before training takes time or writes anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from offramp.authoring.backbones.onnx.part import onnx_parts
from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.data.split import check_split
from offramp.authoring.networks.check import check_answers, check_split_point
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.recipes.recipe import RecipeValues
from offramp.authoring.training.frozen import front_of
from offramp.authoring.training.run import Run
from offramp.engine.runtime.load import has_compiler
from offramp.errors import ConfigError, DataError


def check_run(
    run: Run,
    network: EarlyExitNetwork,
    images: LabelledImages,
    *,
    calibration: LabelledImages | None = None,
    processes: int = 1,
) -> None:
    """Refuse a run that would fail later, or would train something other than what was meant.

    Args:
        run: what to train.
        network: the one that the run's recipe built.
        images: the whole training part.
        calibration: the samples that thresholds are chosen on, if they are a part of their own.
        processes: how many share the training images.

    Raises:
        ConfigError: the network does not fit the preprocessing, the labels, the split point or the number of exit
            weights; the warm-up never ends; it trains blocks from an ONNX file; or too few images are left to train on.
        DataError: there are no images, a class has no label, or the images do not have the preprocessing's shape.
    """
    check_task(run.recipe)
    _check_images(run, images)
    if calibration is not None:
        _check_images(run, calibration)
    data = run.provenance.data
    if data.split:
        check_split(len(images), data.split)
    if (left := data.trained_on) < processes:
        raise ConfigError(
            f"{processes} processes share {left} training images; start at most {left}, see --devices and --nodes"
        )
    _check_warmup(run)
    _check_frozen(run, network)
    check_answers(network, run.recipe.preprocessing, len(run.labels), run.recipe.task)
    check_split_point(network, run.recipe.split_point)
    if run.cached_views and not any(front_of(network, phase, None) for phase in run.phases(network)):
        raise ConfigError(
            f"views is {run.cached_views}, but this training changes every block, so no feature can be kept; leave out "
            "--views and --features, or freeze the backbone with --regime exits or distill, or its first blocks with "
            "--frozen-blocks"
        )
    _check_weights("exit_weights", run.recipe.exit_weights, network.num_exits)
    if run.final_exit_weights is not None:
        _check_weights("final_exit_weights", run.final_exit_weights, network.num_exits)
    _check_fixed(run, network)


def check_compiled(run: Run, *, processes: int) -> None:
    """Refuse to compile what would not gain from it, or fail at its first step.

    Raises:
        ConfigError: there is no C++ compiler; steps take cached features; or several processes share each batch.
    """
    if not has_compiler():
        raise ConfigError("--compile found no C++ compiler; install g++, or leave it out")
    if run.cached_views:
        raise ConfigError(
            f"views is {run.cached_views}, so steps take cached features and skip most of the network; leave out "
            "--compile, or --views and --features"
        )
    if processes > 1:
        raise ConfigError(
            f"--compile is for one process, and {processes} share each batch; leave it out, or --devices and --nodes"
        )


def check_task(recipe: RecipeValues) -> None:
    """Refuse what only exclusive classes can learn with.

    Raises:
        ConfigError: the task is another one, and the recipe mixes, smooths or weights classes.
    """
    if recipe.task.kind == "single_label":
        return
    asked = {
        "--mixup": bool(recipe.augmentation.mixup),
        "--label-smoothing": bool(recipe.label_smoothing),
        "--class-weights": recipe.class_weights != "equal",
    }
    if wrong := [option for option, is_asked in asked.items() if is_asked]:
        raise ConfigError(
            f"{' and '.join(wrong)} need exclusive classes, but the task is {recipe.task.kind}; set them to 0 or equal"
        )


def _check_warmup(run: Run) -> None:
    warmup, epochs = run.recipe.warmup, run.recipe.epochs
    if warmup is not None and warmup >= epochs:
        raise ConfigError(
            f"the learning rate rises for {warmup:g} epochs of {epochs}; give a --warmup of less than --epochs"
        )


def _check_frozen(run: Run, network: EarlyExitNetwork) -> None:
    frozen, blocks = run.recipe.frozen_blocks, len(network.blocks)
    if frozen >= blocks:
        raise ConfigError(
            f"frozen_blocks is {frozen}, but the network has {blocks} blocks; freeze fewer than that, or all of them "
            "with --regime exits"
        )
    if frozen and run.start is None and not run.recipe.is_trained:
        raise ConfigError(
            f"frozen_blocks is {frozen}, but the recipe's backbone is untrained; give a run to start from with --start"
        )


def _check_images(run: Run, images: LabelledImages) -> None:
    if not len(images):
        raise DataError("the data has no images; give a directory that holds some")
    _check_truths(run, images)
    expected = run.recipe.preprocessing.pixel_shape
    if images.pixels.shape[1:] != expected:
        raise DataError(
            f"the images have shape {images.pixels.shape[1:]}, expected {expected}; load them with the recipe's "
            "preprocessing"
        )


def _check_truths(run: Run, images: LabelledImages) -> None:
    quantity = run.recipe.task.quantity
    if quantity is not None:
        least, most = float(images.classes.min()), float(images.classes.max())
        if least < quantity.low or most > quantity.high:
            raise DataError(
                f"the values lie between {least:g} and {most:g}, but {quantity.name} is said to lie between "
                f"{quantity.low:g} and {quantity.high:g}; give another range with --quantity, or mend the values"
            )
        return
    if run.recipe.task.kind == "multi_label":
        return
    highest = int(images.classes.max())
    if highest >= len(run.labels):
        raise DataError(
            f"the data has class {highest}, but {len(run.labels)} labels were given; name all {highest + 1} classes "
            "with --labels"
        )


def _check_fixed(run: Run, network: EarlyExitNetwork) -> None:
    fixed = {number for number, block in enumerate(network.blocks, start=1) if onnx_parts(block)}
    trained = sorted(fixed & {number for phase in run.phases(network) for number in phase.blocks})
    if trained:
        raise ConfigError(
            f"this run would train block {trained[0]}, which comes from an ONNX file and stays as it is; train only "
            "the exits, with --regime exits or distill, and without --unfrozen"
        )


def _check_weights(name: str, weights: Sequence[float], exits: int) -> None:
    option = "--" + name.replace("_", "-")
    if len(weights) != exits:
        raise ConfigError(
            f"{name} has {len(weights)} values, but the network has {exits} exits; give one for each, in the recipe or "
            f"as {option} {','.join(['1'] * exits)}"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ConfigError(
            f"{name} is {tuple(weights)}; expected numbers of 0 or more, at least one above 0, in the recipe or as "
            f"{option} {','.join(['1'] * exits)}"
        )
