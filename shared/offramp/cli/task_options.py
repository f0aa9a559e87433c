"""A task from the options `--task` and `--quantity`."""

from __future__ import annotations

from pydantic import ValidationError

from offramp.bundle.task import Kind, Quantity, Task
from offramp.errors import ConfigError

_EXAMPLE = "angle,degrees,-45,45,5"


def task_from(kind: Kind, quantity: str | None) -> Task:
    """The task that the options describe.

    Args:
        kind: what is asked about a photo.
        quantity: its name, unit, lowest and highest value and tolerance, separated by commas; only for a regression.

    Raises:
        ConfigError: a regression lacks its quantity, another task has one, or the quantity makes no sense.
    """
    if kind != "regression":
        if quantity is not None:
            raise ConfigError(f"--quantity is for the task regression, not for {kind}; leave one of them out")
        return Task(kind=kind)
    if quantity is None:
        raise ConfigError(f"the task regression needs a --quantity, such as {_EXAMPLE}")
    return Task(kind=kind, quantity=_quantity(quantity))


def _quantity(text: str) -> Quantity:
    parts = [part.strip() for part in text.split(",")]
    try:
        name, unit, low, high, tolerance = parts
        numbers = {"low": float(low), "high": float(high), "tolerance": float(tolerance)}
    except ValueError as error:
        raise ConfigError(
            f"--quantity is '{text}'; write its name, unit, lowest and highest value and tolerance, such as {_EXAMPLE}"
        ) from error
    try:
        return Quantity(name=name, unit=unit, **numbers)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--quantity is '{text}': {first['msg'].removeprefix('Value error, ')}") from error
