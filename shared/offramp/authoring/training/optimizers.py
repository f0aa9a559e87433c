"""The optimizer of a phase and the schedule of its learning rate, as the recipe says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.recipes.recipe import RecipeValues

_RISE = 0.2
_FEWEST_STEPS = 3
_MOMENTUM = 0.9


def optimizer_of(network: EarlyExitNetwork, recipe: RecipeValues) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, for the weights that learn; each block may have a rate of its own."""
    groups = _groups(network, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=_MOMENTUM, nesterov=True)


def schedule_of(optimizer: torch.optim.Optimizer, recipe: RecipeValues, steps: int) -> LRScheduler | None:
    """How the rate changes from step to step; None if there are too few steps to rise and fall.

    Args:
        optimizer: of `optimizer_of`; its groups have their highest rates.
        recipe: schedule, warm-up, epochs.
        steps: of the whole phase.
    """
    if recipe.schedule == "cosine":
        return LambdaLR(optimizer, _cosine(steps, rising=round((recipe.warmup or 0) / recipe.epochs * steps)))
    if steps < _FEWEST_STEPS:
        return None
    rise = _RISE if recipe.warmup is None else recipe.warmup / recipe.epochs
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        # torch counts steps from 0 and divides by the number of rising steps, which must be at least one, and by
        # that of falling ones.
        pct_start=min(max(rise, 2 / steps), 1 - 1 / steps),
    )


def _groups(network: EarlyExitNetwork, recipe: RecipeValues) -> list[dict[str, Any]]:
    """Two groups for each learning rate: with weight decay, and without it for biases and normalisation."""
    rates: dict[float, tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            rate = recipe.learning_rate * _share(name, recipe, len(network.blocks))
            rates.setdefault(rate, ([], []))[parameter.ndim <= 1].append(parameter)
    return [
        group
        for rate, (decayed, plain) in rates.items()
        for group in (
            {"params": decayed, "lr": rate, "weight_decay": recipe.weight_decay},
            {"params": plain, "lr": rate, "weight_decay": 0.0},
        )
    ]


def _share(name: str, recipe: RecipeValues, num_blocks: int) -> float:
    """The rate of a weight, as a share of that of the EECs."""
    match name.split("."):
        case ["blocks", index, *_]:
            return recipe.backbone_rate * recipe.layer_decay ** (num_blocks - 1 - int(index))
    return 1.0


def _cosine(steps: int, *, rising: int) -> Callable[[int], float]:
    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + math.cos(math.pi * min((step - rising) / max(steps - rising, 1), 1.0))) / 2

    return share
