"""Named recipes: a network, the images it takes, and how to train it by default."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from offramp.authoring.networks.alexnet import b_alexnet, gc_alexnet
from offramp.authoring.networks.lenet import b_lenet
from offramp.authoring.networks.mobilenet import b_mobilenet
from offramp.authoring.networks.resnet import b_resnet, resnet
from offramp.authoring.networks.vit import b_vit
from offramp.authoring.recipes.attached import attached_recipe, is_attached
from offramp.authoring.recipes.given import imported
from offramp.authoring.recipes.recipe import Augmentation, Recipe
from offramp.bundle.manifest import Preprocessing
from offramp.errors import ConfigError

_GREY_28 = Preprocessing(height=28, width=28, mode="L", mean=(0.2,), std=(0.33,))
_COLOUR_32 = Preprocessing(
    height=32, width=32, mode="RGB", mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262)
)

_LENET = Recipe(
    build=b_lenet,
    preprocessing=_GREY_28,
    exit_weights=(1.0, 1.0),
    epochs=60,
    batch_size=128,
    learning_rate=0.05,
    weight_decay=1e-4,
    augmentation=Augmentation(shift=2),
    split_point=2,
    validation=5000,
)
_ALEXNET = Recipe(
    build=b_alexnet,
    preprocessing=_COLOUR_32,
    exit_weights=(0.5, 0.5, 1.0),
    epochs=60,
    batch_size=128,
    learning_rate=0.1,
    augmentation=Augmentation(shift=4, mirror=True, blank=8),
    split_point=3,
    validation=5000,
)
# These networks are narrow and do not overfit in this many epochs, so no square is blanked.
_RESNET = _ALEXNET.changed(epochs=45, weight_decay=3e-4, augmentation=Augmentation(shift=4, mirror=True))

RECIPES: Mapping[str, Recipe] = {
    "b-lenet-mnist": _LENET,
    "b-lenet-fashion": _LENET.changed(augmentation=Augmentation(shift=1, mirror=True)),
    "b-alexnet-cifar10": _ALEXNET,
    "gc-alexnet-cifar10": _ALEXNET.changed(
        build=gc_alexnet, exit_weights=(0.5, 0.5, 0.5, 0.5, 1.0), split_point=4
    ),
    "b-resnet20-cifar10": _RESNET.changed(build=partial(b_resnet, 20)),
    "b-resnet32-cifar10": _RESNET.changed(build=partial(b_resnet, 32)),
    "b-resnet56-cifar10": _RESNET.changed(build=partial(b_resnet, 56)),
    "b-resnet110-cifar10": _RESNET.changed(build=partial(b_resnet, 110)),
    "b-mobilenet-cifar10": _RESNET.changed(build=b_mobilenet),
    "b-vit-cifar10": _RESNET.changed(build=b_vit, learning_rate=0.03),
    # Static networks: no early exit at all.
    "resnet20-cifar10": _RESNET.changed(build=partial(resnet, 20), exit_weights=(1.0,), split_point=2),
    # This one teaches the others; it is far too much work for a CPU.
    "wide-resnet20-cifar10": _ALEXNET.changed(
        build=partial(resnet, 20, times=6), exit_weights=(1.0,), split_point=2
    ),
}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; or one from `offramp attach`, by its directory; or your own as `module:NAME`.

    Raises:
        ConfigError: there is no such recipe.
    """
    if is_attached(Path(name)):
        return attached_recipe(Path(name))
    if ":" in name:
        return _imported(name)
    if name not in RECIPES:
        raise ConfigError(
            f"no recipe '{name}'; choose one of {', '.join(RECIPES)}, give a directory made by `offramp attach`, or "
            "your own recipe as module:NAME"
        )
    return RECIPES[name]


def _imported(name: str) -> Recipe:
    try:
        recipe = imported(name, "the recipe")
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"'{name}' has a value that is not allowed: {'.'.join(str(part) for part in first['loc'])} is "
            f"{first['input']!r}: {first['msg'].removeprefix('Input ')}"
        ) from error
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"'{name}' is a {type(recipe).__name__}, expected a Recipe")
    return recipe
