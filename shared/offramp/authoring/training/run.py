"""A training run on disk: its settings (`run.json`) and one checkpoint for each phase."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError

from offramp.authoring.networks.bottleneck import Bottleneck, BottleneckSpec
from offramp.authoring.networks.cost import network_cost
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.recipes import Recipe, recipe_named
from offramp.authoring.training.regimes import Phase, RegimeName, phases
from offramp.bundle.provenance import Provenance
from offramp.errors import ConfigError
from offramp.record import Record

RUN_FILE = "run.json"
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Run(Record):
    """The settings of a run; to resume it, they must be the same."""

    labels: tuple[str, ...] = Field(min_length=2)
    provenance: Provenance
    regime: RegimeName = "joint"
    exit_weights: tuple[Weight, ...] | None = Field(
        default=None, description="w_i of the joint loss; the recipe's unless given"
    )
    final_exit_weights: tuple[Weight, ...] | None = Field(
        default=None, description="w_i of the last epoch; the weights move there evenly"
    )
    learning_rate: float | None = Field(default=None, gt=0, description="the recipe's unless given")
    start: str | None = Field(default=None, description="run whose weights this one starts from")
    teacher: str | None = Field(default=None, description="run whose last exit teaches; `start` unless given")
    alpha: float = Field(default=0.5, ge=0, le=1, description="share of the teacher in the loss")
    temperature: float = Field(default=4.0, gt=0, description="T of distillation")
    frozen: bool = Field(default=True, description="whether distillation leaves the backbone as it is")
    bottleneck: BottleneckSpec | None = Field(
        default=None, description="at the split, for the regime 'bottleneck'"
    )

    @property
    def recipe(self) -> Recipe:
        """The recipe as this version has it, with this run's changes."""
        changes: dict[str, Any] = {
            "exit_weights": self.exit_weights,
            "learning_rate": self.learning_rate,
        }
        recipe = recipe_named(self.provenance.recipe)
        return replace(recipe, **{name: value for name, value in changes.items() if value is not None})

    def phases(self, network: EarlyExitNetwork) -> tuple[Phase, ...]:
        """The phases of this run, in order."""
        return phases(
            self.regime,
            network.exit_blocks,
            self.recipe.exit_weights,
            frozen=self.frozen,
            bottleneck=self.bottleneck,
        )

    def build(self) -> EarlyExitNetwork:
        """The recipe's network, untrained, with this run's bottleneck.

        Raises:
            ConfigError: the recipe builds something else, or the bottleneck's split point has no block.
        """
        network = self.recipe.build(len(self.labels))
        if not isinstance(network, EarlyExitNetwork):
            raise ConfigError(
                f"recipe '{self.provenance.recipe}' builds a {type(network).__name__}, expected an EarlyExitNetwork; "
                "make one from your model with attach_exits"
            )
        if self.bottleneck is not None:
            shape = feature_shape(network, self.recipe, self.bottleneck.split_point)
            network.bottleneck = Bottleneck(shape, self.bottleneck)
        return network


def feature_shape(network: EarlyExitNetwork, recipe: Recipe, split_point: int) -> tuple[int, ...]:
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


def load_run(directory: Path) -> Run:
    """Read `run.json`.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        return Run.model_validate_json((directory / RUN_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{directory} is not a training run: {error}; make one with `offramp train`"
        ) from error


def load_network(directory: Path) -> EarlyExitNetwork:
    """The network of a run with the weights of its last checkpoint, ready for inference.

    Raises:
        ConfigError: there is no run, or one of its phases has no checkpoint.
    """
    run = load_run(directory)
    network = run.build()
    load_weights(network, _last_checkpoint(directory, len(run.phases(network))))
    return network.eval()


def load_weights(network: EarlyExitNetwork, checkpoint: Path) -> None:
    """Give a network the weights of a checkpoint."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def training_s(directory: Path) -> float | None:
    """Seconds that training took, without interruptions; None if a checkpoint does not say.

    Raises:
        ConfigError: there is no run, or one of its phases has no checkpoint.
    """
    run = load_run(directory)
    count = len(run.phases(run.build()))
    _last_checkpoint(directory, count)
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


def _last_checkpoint(directory: Path, num_phases: int) -> Path:
    for number in range(1, num_phases + 1):
        path = directory / checkpoint_name(number)
        if not path.exists():
            of = f"phase {number} of {num_phases}" if num_phases > 1 else "the run"
            raise ConfigError(f"{directory} has no {path.name}: {of} has not finished its first epoch")
    return path
