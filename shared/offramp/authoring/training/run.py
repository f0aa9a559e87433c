"""A training run on disk: its settings (`run.json`) and one checkpoint for each phase."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from offramp.authoring.networks.bottleneck import Bottleneck, BottleneckSpec
from offramp.authoring.networks.cost import network_cost
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.recipes.named import recipe_named
from offramp.authoring.recipes.recipe import Recipe, RecipeValues
from offramp.authoring.training.regimes import Phase, RegimeName, phases
from offramp.bundle.provenance import Provenance
from offramp.errors import ConfigError
from offramp.record import Record

RUN_FILE = "run.json"
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Run(Record):
    """The settings of a run; to resume it, they must be the same."""

    labels: tuple[str, ...] = Field(description="none for a regression")
    provenance: Provenance
    recipe: RecipeValues = Field(description="as it was used, with the changes of the command line")
    regime: RegimeName = "joint"
    final_exit_weights: tuple[Weight, ...] | None = Field(
        default=None, description="w_i of the last epoch; the weights move there evenly"
    )
    start: str | None = Field(default=None, description="run whose weights this one starts from")
    teacher: str | None = Field(default=None, description="run whose last exit teaches; `start` unless given")
    alpha: float = Field(default=0.5, ge=0, le=1, description="share of the teacher in the loss")
    temperature: float = Field(default=4.0, gt=0, description="T of distillation")
    frozen: bool = Field(default=True, description="whether distillation leaves the backbone as it is")
    views: int | None = Field(
        default=None,
        ge=0,
        description="versions of each photo whose features are computed once, before the first epoch; 0: none are; "
        "1 for the regime 'exits', else 0, unless given",
    )
    bottleneck: BottleneckSpec | None = Field(
        default=None, description="at the split, for the regime 'bottleneck'"
    )

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.provenance.epochs != self.recipe.epochs:
            raise ValueError(
                f"provenance says {self.provenance.epochs} epochs, the recipe {self.recipe.epochs}"
            )
        self.recipe.task.check_fits(self.labels)
        return self

    @property
    def cached_views(self) -> int:
        """Versions of each photo whose features are computed once; 0: every epoch computes them anew."""
        if self.views is not None:
            return self.views
        return 1 if self.regime == "exits" else 0

    def phases(self, network: EarlyExitNetwork) -> tuple[Phase, ...]:
        """The phases of this run, in order."""
        planned = phases(
            self.regime,
            network.exit_blocks,
            self.recipe.exit_weights,
            frozen=self.frozen,
            bottleneck=self.bottleneck,
        )
        return tuple(phase.without_first(self.recipe.frozen_blocks) for phase in planned)

    def build(self, directory: Path) -> EarlyExitNetwork:
        """The recipe's network, untrained, with this run's bottleneck.

        Args:
            directory: of this run.

        Raises:
            ConfigError: there is no such recipe any more, it builds something else, or the bottleneck's split point has
                no block.
        """
        network = self._named(directory).build(self.recipe.task.num_outputs(len(self.labels)))
        if not isinstance(network, EarlyExitNetwork):
            raise ConfigError(
                f"recipe '{self.provenance.recipe}' builds a {type(network).__name__}, expected an EarlyExitNetwork; "
                "make one from your model with attach_exits"
            )
        if self.bottleneck is not None:
            shape = feature_shape(network, self.recipe, self.bottleneck.split_point)
            network.bottleneck = Bottleneck(shape, self.bottleneck)
        return network

    def _named(self, directory: Path) -> Recipe:
        """The recipe as it is now, which only serves to build the network."""
        name = self.provenance.recipe
        try:
            return recipe_named(name)
        except ConfigError as error:
            reason = error.__cause__ or "this version has no such recipe"
            raise ConfigError(
                f"{directory} was trained as '{name}', but that recipe cannot be found: {reason}; run this where the "
                "recipe can be imported, as it builds the network"
            ) from error


def feature_shape(network: EarlyExitNetwork, recipe: RecipeValues, split_point: int) -> tuple[int, ...]:
    """Shape of one sample's feature before the block at the split point.

    Raises:
        ConfigError: there is no such block, or it is the first.
    """
    if not 2 <= split_point <= len(network.blocks):
        raise ConfigError(
            f"split_point is {split_point}; give a block with another before it, 2 to {len(network.blocks)}"
        )
    image = recipe.preprocessing
    cost = network_cost(network, (image.channels, image.height, image.width))
    return cost.feature_shapes[split_point - 1]


def checkpoint_name(phase_number: int) -> str:
    """File name of a phase's last checkpoint; phases count from 1."""
    return f"phase-{phase_number}.ckpt"


def best_checkpoint_name(phase_number: int) -> str:
    """File name of the checkpoint of a phase's best epoch, if the recipe keeps that one."""
    return f"phase-{phase_number}-best.ckpt"


def kept_checkpoint(directory: Path, phase_number: int, recipe: RecipeValues) -> Path:
    """The checkpoint with the weights that a phase ends with."""
    name = best_checkpoint_name if recipe.keep == "best" else checkpoint_name
    return directory / name(phase_number)


def load_run(directory: Path) -> Run:
    """Read `run.json`.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        return Run.model_validate_json((directory / RUN_FILE).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{directory} is not a training run: {error}; make one with `offramp train`"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            f"{directory / RUN_FILE} is not the settings of a training run: {where}: {first['msg']}; train again in "
            "another directory"
        ) from error


def load_network(directory: Path) -> EarlyExitNetwork:
    """The network of a run with the weights that it keeps, those of its last or its best epoch, ready for inference.

    Raises:
        ConfigError: there is no run, one of its phases has no checkpoint, or the recipe builds another network now.
    """
    run = load_run(directory)
    network = run.build(directory)
    # A network with other exits may have other phases, so it is compared before they are counted.
    if (directory / checkpoint_name(1)).exists():
        load_weights(network, directory / checkpoint_name(1), run)
    number = len(run.phases(network))
    _check_phases(directory, number)
    load_weights(network, kept_checkpoint(directory, number, run.recipe), run)
    return network.eval()


def load_weights(network: EarlyExitNetwork, checkpoint: Path, run: Run) -> None:
    """Give a network the weights of a checkpoint.

    Raises:
        ConfigError: the checkpoint holds another network; the message names the first part that differs.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except FileNotFoundError as error:
        raise ConfigError(f"{checkpoint} is missing; train again in another directory") from error
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if difference := _difference(weights, network.state_dict()):
        raise ConfigError(
            f"{checkpoint} holds another network than recipe '{run.provenance.recipe}' builds now: {difference}; "
            "change the recipe back, or train again in another directory"
        )
    network.load_state_dict(weights)


def _difference(saved: Mapping[str, Tensor], built: Mapping[str, Tensor]) -> str | None:
    """The first part that differs between a checkpoint and a network; None if they fit together."""
    for name in dict.fromkeys([*built, *saved]):
        if name not in saved:
            return f"{_part(name)} has '{name}', which is not in the checkpoint"
        if name not in built:
            return f"{_part(name)} no longer has '{name}'"
        if saved[name].shape != built[name].shape:
            shapes = (tuple(saved[name].shape), tuple(built[name].shape))
            return f"in {_part(name)}, '{name}' has shape {shapes[0]} in the checkpoint and {shapes[1]} now"
    return None


def _part(name: str) -> str:
    """The part of the network that a weight belongs to, as people count it."""
    match name.split("."):
        case ["blocks", index, *_]:
            return f"block {int(index) + 1}"
        case ["eecs", block, *_]:
            return f"the exit behind block {block}"
    return "the bottleneck"


def training_s(directory: Path) -> float | None:
    """Seconds that training took, without interruptions; None if a checkpoint does not say.

    Raises:
        ConfigError: there is no run, or one of its phases has no checkpoint.
    """
    run = load_run(directory)
    count = len(run.phases(run.build(directory)))
    _check_phases(directory, count)
    total = 0.0
    for number in range(1, count + 1):
        saved = torch.load(directory / checkpoint_name(number), map_location="cpu", weights_only=True)
        timer = saved["callbacks"].get("Timer")
        if timer is None:
            return None
        total += float(timer["time_elapsed"]["train"])
    return total


def library_versions() -> dict[str, str]:
    """Versions of the libraries that the result of a training depends on."""
    return {name: version(name) for name in ("offramp", "torch", "lightning", "numpy")}


def _check_phases(directory: Path, num_phases: int) -> None:
    for number in range(1, num_phases + 1):
        path = directory / checkpoint_name(number)
        if not path.exists():
            of = f"phase {number} of {num_phases}" if num_phases > 1 else "the run"
            raise ConfigError(f"{directory} has no {path.name}: {of} has not finished its first epoch")
