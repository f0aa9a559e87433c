"""A recipe on disk: a backbone that somebody trained, and where its exits go; `offramp attach` makes it.

The directory has the backbone as a program of torch.export or as an ONNX file, and `recipe.json`. It needs none of the
code that the backbone was written in.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.recipes.recipe import Recipe, RecipeValues
from offramp.bundle.provenance import Sha256
from offramp.errors import ConfigError
from offramp.record import Record

if TYPE_CHECKING:
    from offramp.authoring.recipes.given import Given

RECIPE_FILE = "recipe.json"
_SUFFIX_OF = {"torch": ".pt2", "onnx": ".onnx"}


class Attached(Record):
    """What `recipe.json` holds.

    kind: what the backbone's file is. sha256: of that file. exits: where the early exits go, as shares of the
    backbone's cost. eec_shares: the most that each EEC may cost, likewise. new_head: whether an untrained layer
    replaces the backbone's last one, for other classes.
    command: what made the recipe.
    """

    kind: Literal["torch", "onnx"]
    sha256: Sha256
    exits: tuple[float, ...]
    eec_shares: tuple[float, ...] | None = None
    new_head: bool
    command: str
    recipe: RecipeValues = Field(description="how it is trained unless the command line says otherwise")

    @property
    def backbone_file(self) -> str:
        """Name of the backbone's file."""
        return f"backbone{_SUFFIX_OF[self.kind]}"


def write_attached(
    directory: Path,
    given: Given,
    recipe: RecipeValues,
    *,
    exits: tuple[float, ...],
    eec_shares: tuple[float, ...] | None,
    new_classes: int | None,
    command: str,
) -> EarlyExitNetwork:
    """Save a backbone with a recipe for it, and return the network that the recipe builds.

    Args:
        directory: new or empty.
        given: the backbone.
        recipe: how to train it, and which images it takes.
        exits: where the early exits go, as rising shares of the backbone's cost between 0 and 1.
        eec_shares: the most that each EEC may cost, as shares of the backbone's cost.
        new_classes: replace the last layer by an untrained one, here for so many classes; None keeps it.
        command: what was typed.

    Raises:
        ConfigError: the directory is not empty, or the backbone cannot be cut there; the directory stays as it was.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty; choose another directory with --out, or remove it")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"backbone{_SUFFIX_OF[given.kind]}"
    image = recipe.preprocessing
    try:
        given.save(path, (image.channels, image.height, image.width))
        attached = Attached(
            kind=given.kind,
            sha256=_digest(path),
            exits=exits,
            eec_shares=eec_shares,
            new_head=new_classes is not None,
            command=command,
            recipe=recipe,
        )
        network = _build(directory, attached, new_classes)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    (directory / RECIPE_FILE).write_text(attached.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return network


def is_attached(directory: Path) -> bool:
    """Whether a directory holds such a recipe."""
    return (directory / RECIPE_FILE).is_file()


def attached_recipe(directory: Path) -> Recipe:
    """The recipe in a directory.

    Raises:
        ConfigError: its file is damaged. What it builds is checked when it is built.
    """
    attached = _read(directory)
    return Recipe(**dict(attached.recipe), build=partial(_build, directory, attached))


def commands_behind(recipe: str) -> tuple[str, ...]:
    """The commands that made a recipe: one, if it is on disk."""
    return (_read(Path(recipe)).command,) if is_attached(Path(recipe)) else ()


def _read(directory: Path) -> Attached:
    path = directory / RECIPE_FILE
    try:
        return Attached.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; make one with `offramp attach`"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "its content"
        raise ConfigError(
            f"{path} is not a recipe of this version: {place}: {first['msg']}; make one with `offramp attach`"
        ) from error


def _build(directory: Path, attached: Attached, num_classes: int | None) -> EarlyExitNetwork:
    path = directory / attached.backbone_file
    if not path.is_file() or _digest(path) != attached.sha256:
        raise ConfigError(
            f"{path} is missing, or another file than the one that {directory / RECIPE_FILE} names; copy the whole "
            "directory again, or attach the exits anew"
        )
    image = attached.recipe.preprocessing
    shape = (image.channels, image.height, image.width)
    exits, eec_shares = attached.exits, attached.eec_shares
    classes = num_classes if attached.new_head else None
    if attached.kind == "onnx":
        from offramp.authoring.backbones.onnx.attach import attach_exits_to_onnx

        return attach_exits_to_onnx(
            path, exits=exits, eec_shares=eec_shares, image_shape=shape, num_classes=classes
        )
    from offramp.authoring.backbones.attach import attach_exits
    from offramp.authoring.backbones.saved import load_backbone

    return attach_exits(
        load_backbone(path), image_shape=shape, exits=exits, eec_shares=eec_shares, num_classes=classes
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
