"""How a command ends when something named goes wrong: one clear line and exit status 2, no traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import typer
from rich.console import Console
from rich.text import Text

from offramp.errors import ConfigError, OfframpError

P = ParamSpec("P")

_EXTRA_OF = {
    "fastapi": "edge",
    "fastapi_offline": "edge",
    "uvicorn": "edge",
    "multipart": "edge",
    "python_multipart": "edge",
    "grpc_health": "cloud",
    "grpc_reflection": "cloud",
    "nicegui": "dashboard",
    "torch": "train",
    "lightning": "train",
    "torchmetrics": "train",
    "onnx": "train",
    "onnxscript": "train",
}


def told_in_one_line(command: Callable[P, None]) -> Callable[P, None]:
    """Turn an `OfframpError`, or a missing extra, into one line on standard error."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except OfframpError as error:
            _say(error)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except ModuleNotFoundError as error:
            extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            _say(ConfigError(f"{error.name} is not installed; run: pip install 'offramp[{extra}]'"))

    return wrapped


def _say(error: OfframpError) -> None:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), str(error)))
    raise typer.Exit(2)
