"""`attach`: cuts a trained model and attaches exits, which makes a recipe on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from offramp.bundle import Preprocessing
from offramp.bundle.in_words import preprocessing_in_words
from offramp.bundle.task import Kind, Task
from offramp.cli.progress import console
from offramp.cli.task_options import task_from
from offramp.command import Command
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.authoring.networks.early_exit import EarlyExitNetwork
    from offramp.authoring.recipes.given import Given
    from offramp.authoring.recipes.recipe import RecipeValues

_UNKNOWN_CLASSES = 10


class Attach(Command):
    """Cut a model that is already trained and attach untrained exits: a recipe for `offramp train`.

    Needs the extra `train`. The recipe's directory holds the model too, so nothing else is needed later.

    Example: offramp attach mine.onnx --preprocessing preprocessor_config.json --out recipes/mine
    """

    model: CliPositionalArg[str] = Field(
        description="an ONNX file; a .pt2 file of torch.export; a directory of transformers; weights, with --factory; "
        "or module:NAME of a function that makes the trained model"
    )
    out: Path = Field(description="directory of the new recipe")
    factory: str | None = Field(
        default=None, description="module:NAME of what makes the untrained torch model, for a file of weights"
    )
    preprocessing: str | None = Field(
        default=None,
        description="how photos become pixels: a JSON file (transformers' preprocessor_config.json, timm's "
        "config.json, a bundle.json, or the fields of a Preprocessing), or module:NAME of one (default: the "
        "one in a directory of transformers)",
    )
    exits: str = Field(
        default="0.25,0.5",
        description="where to put early exits, as rising shares of the model's cost",
    )
    eec_shares: str | None = Field(
        default=None,
        description="the most that each exit's classifier may cost, as shares of the model's cost, such as 0.1,0.05 "
        "(default: half of the block after it, at most 0.1)",
    )
    new_head: bool = Field(
        default=False,
        description="replace the last layer by an untrained one, for classes that the model wasn't trained for",
    )
    task: Kind | None = Field(
        default=None,
        description="what the network is asked about a photo; see `offramp train` (default: single_label)",
    )
    quantity: str | None = Field(
        default=None, description="of a regression; see `offramp train`, such as angle,degrees,-45,45,5"
    )
    labels: str | None = Field(
        default=None,
        description="names of the model's classes in its own order, a,b,c, or a file with one on each line (default: "
        "those in a directory of transformers)",
    )

    def execute(self) -> None:
        """Cut, write the recipe, and show where the exits are."""
        from offramp.authoring.recipes.attached import write_attached
        from offramp.authoring.recipes.given import read_model

        exits, given = _shares("--exits", self.exits), read_model(self.model, self.factory)
        eec_shares = None if self.eec_shares is None else _shares("--eec-shares", self.eec_shares)
        labels = _labels(self.labels) or (None if self.new_head else given.labels)
        if self.new_head and labels:
            raise ConfigError("with --new-head the classes are those of the data; leave --labels out")
        task = task_from(self.task or "regression", self.quantity) if self.task or self.quantity else Task()
        recipe = _recipe(self._preprocessing(given), exits, labels, task)
        classes = task.num_outputs(_UNKNOWN_CLASSES) if self.new_head else None
        network = write_attached(
            self.out,
            given,
            recipe,
            exits=exits,
            eec_shares=eec_shares,
            new_classes=classes,
            command=self.as_typed,
        )
        Console().print(_table(network))
        if not self.new_head and labels is None and task.kind != "regression":
            console.print(
                "the model doesn't name its classes: training takes the folders in alphabetical order, so give "
                "--labels if the model counts them otherwise"
            )
        regime = "joint" if self.new_head and given.kind == "torch" else "exits"
        console.print(
            f"photos: {preprocessing_in_words(recipe.preprocessing)}; next:",
            f"offramp train {self.out} --data PATH --regime {regime} --out RUN",
            sep="\n",
            soft_wrap=True,
        )

    def _preprocessing(self, given: Given) -> Preprocessing:
        if self.preprocessing is not None:
            return _read_preprocessing(self.preprocessing)
        if given.processor is not None:
            return Preprocessing.from_transformers(given.processor)
        raise ConfigError(
            "nothing says how the model's photos were resized and normalised, and a guess would cost accuracy in "
            "silence; give --preprocessing"
        )


def _read_preprocessing(source: str) -> Preprocessing:
    from offramp.authoring.recipes.given import imported

    path = Path(source)
    if not path.is_file():
        found = imported(source, "--preprocessing") if ":" in source else None
        if not isinstance(found, Preprocessing):
            raise ConfigError(
                f"--preprocessing is '{source}', which is neither a file nor module:NAME of a Preprocessing"
            )
        return found
    try:
        fields: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds a {type(fields).__name__}, expected the fields of a preprocessing")
    fields = fields.get("preprocessing", fields)
    if "input_size" in fields or "pretrained_cfg" in fields:
        return Preprocessing.from_timm(fields)
    if "height" not in fields:
        return Preprocessing.from_transformers(fields)
    try:
        return Preprocessing.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "preprocessing"
        raise ConfigError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}") from error


def _recipe(
    preprocessing: Preprocessing, exits: tuple[float, ...], labels: tuple[str, ...] | None, task: Task
) -> RecipeValues:
    from offramp.authoring.recipes.recipe import Augmentation, RecipeValues

    return RecipeValues(
        preprocessing=preprocessing,
        task=task,
        backbone_labels=labels,
        exit_weights=(1.0,) * (len(exits) + 1),
        split_point=len(exits) + 1,
        is_trained=True,
        epochs=10,
        batch_size=32,
        optimizer="adamw",
        learning_rate=1e-3,
        backbone_rate=0.3,
        weight_decay=0.02,
        label_smoothing=0.1 if task.kind == "single_label" else 0.0,
        ema=0.99,
        augmentation=Augmentation(mirror=True, crop=(0.35, 1.0)),
    )


def _shares(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} is '{text}'; write shares of the cost, such as 0.25,0.5") from error


def _labels(given: str | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    path = Path(given)
    text = path.read_text(encoding="utf-8").splitlines() if path.is_file() else given.split(",")
    names = tuple(name.strip() for name in text)
    if len(names) < 2 or len(set(names)) != len(names) or not all(names):
        raise ConfigError(
            f"--labels '{given}' has fewer than two names, repeats one or leaves one empty; write each class once"
        )
    return names


def _table(network: EarlyExitNetwork) -> Table:
    from offramp.authoring.backbones.eecs import eec_costs

    table = Table(title="where the exits are")
    for column in ("exit", "after block", "share of the cost", "its EEC", "feature"):
        table.add_column(column, justify="right")
    assert network.origin is not None
    exits = zip(network.origin.chosen, eec_costs(network), strict=True)
    for number, (cut, eec) in enumerate(exits, start=1):
        shape = " x ".join(str(side) for side in cut.feature_shape)
        table.add_row(f"exit-{number}", str(number), f"{cut.share:.1%}", f"{eec:.1%}", shape)
    table.add_row("final", str(len(network.blocks)), "100.0%", "", "")
    return table
