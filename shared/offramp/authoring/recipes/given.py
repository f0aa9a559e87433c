"""Reads a classifier in any of the forms in which people have one."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from offramp.errors import ConfigError
from offramp.install import how_to_install

_WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
_STATE_NAMES = ("state_dict", "model_state_dict", "model", "ema", "net")
_PLAIN_LABEL = "LABEL_"


@dataclass(frozen=True, kw_only=True)
class Given:
    """A classifier.

    model: a torch module, a program of torch.export, or the path of an ONNX file. labels: of its classes, in its own
    order, if it names them. processor: its image processor's configuration, if it has one. num_classes: how many it
    tells apart, if known.
    """

    kind: Literal["torch", "onnx"]
    model: Any
    labels: tuple[str, ...] | None = None
    processor: Mapping[str, Any] | None = None
    num_classes: int | None = None

    def save(self, path: Path, image_shape: tuple[int, int, int]) -> None:
        """Write the backbone to a file of its own: `.pt2` or `.onnx`.

        Raises:
            ConfigError: the model cannot be traced; the message says where and why.
        """
        if self.kind == "torch":
            from offramp.authoring.backbones.saved import save_backbone

            save_backbone(self.model, path, image_shape)
            return
        _save_onnx(self.model, path)


def read_model(source: str, factory: str | None) -> Given:
    """Read a classifier.

    Args:
        source: an ONNX file, a `.pt2` file of torch.export, a directory of transformers, a file of weights (with a
            factory), or the factory itself as module:NAME.
        factory: module:NAME of what makes the untrained model, for a file of weights.

    Raises:
        ConfigError: there is no such file or factory, it holds something else, or the weights do not fit.
    """
    path = Path(source)
    if factory is not None:
        return Given(kind="torch", model=_with_weights(_made_by(factory), path))
    if path.is_dir():
        return _from_transformers(path)
    if path.is_file():
        if path.suffix == ".onnx":
            return Given(kind="onnx", model=path)
        if path.suffix == ".pt2":
            from offramp.authoring.backbones.saved import load_backbone

            return Given(kind="torch", model=load_backbone(path))
        if path.suffix in _WEIGHTS:
            raise ConfigError(
                f"{path} holds weights only; also give --factory module:NAME, the function that makes the model"
            )
        raise ConfigError(
            f"{path} is no model that can be read; give an .onnx or .pt2 file, a directory of transformers, or weights "
            f"({', '.join(_WEIGHTS)}) with --factory"
        )
    if ":" in source:
        return Given(kind="torch", model=_made_by(source))
    raise ConfigError(
        f"{source} does not exist; give an .onnx or .pt2 file, a directory of transformers, weights with --factory, or "
        "module:NAME of what makes the model"
    )


def imported(name: str, what: str) -> Any:
    """What module:NAME stands for, imported from the current directory or a package.

    Raises:
        ConfigError: there is no such module or name.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"{what} is '{name}'; write module:NAME")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current directory, as with `python -m`
    try:
        return getattr(importlib.import_module(module), attribute)
    except ValidationError:
        raise
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{what} '{name}' cannot be imported: {error}; give module:NAME of something that can be imported from here"
        ) from error


def _made_by(factory: str) -> Any:
    from torch import nn

    made = imported(factory, "the factory")
    if callable(made) and not isinstance(made, nn.Module):
        try:
            made = made()
        except Exception as error:
            raise ConfigError(
                f"{factory} fails without arguments: {_first_line(error)}; wrap it in a function that takes none"
            ) from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{factory} makes a {type(made).__name__}, expected a torch.nn.Module")
    return made.eval()


def _with_weights(model: Any, path: Path) -> Any:
    state = _state_in(path)
    expected = model.state_dict()
    prefix = "module."  # of a model that was trained in parallel
    if (
        state
        and all(name.startswith(prefix) for name in state)
        and not any(n.startswith(prefix) for n in expected)
    ):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        details = [line.strip() for line in str(error).splitlines()[1:] if line.strip()] or [
            _first_line(error)
        ]
        raise ConfigError(
            f"the weights in {path} do not fit the model that the factory makes: {details[0][:300]}; give the factory "
            "of the model that was trained"
        ) from error
    return model


def _state_in(path: Path) -> dict[str, Any]:
    import torch

    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the file of the model's weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path} needs safetensors; run: {how_to_install('transformers')}") from error
    except Exception as error:
        raise ConfigError(
            f"{path} holds no plain weights: {_first_line(error)}; save model.state_dict() alone, since a whole "
            "pickled model is never loaded"
        ) from error
    for name in _STATE_NAMES:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ConfigError(
            f"{path} holds a {type(found).__name__} that is no state_dict; save model.state_dict() alone"
        )
    return dict(found)


def _from_transformers(directory: Path) -> Given:
    if not (directory / "config.json").is_file():
        raise ConfigError(
            f"{directory} has no config.json, so it is no directory of transformers; write one with "
            "model.save_pretrained(DIR) and processor.save_pretrained(DIR)"
        )
    try:
        from transformers import AutoModelForImageClassification
    except ModuleNotFoundError as error:
        raise ConfigError(f"{directory} needs transformers; run: {how_to_install('transformers')}") from error
    try:
        model = AutoModelForImageClassification.from_pretrained(directory, local_files_only=True).eval()
    except Exception as error:
        raise ConfigError(
            f"transformers cannot load an image classifier from {directory}: {_first_line(error)}"
        ) from error
    names = tuple(str(name) for _, name in sorted(model.config.id2label.items()))
    file = directory / "preprocessor_config.json"
    return Given(
        kind="torch",
        model=model,
        labels=None if any(name.startswith(_PLAIN_LABEL) for name in names) else names,
        processor=json.loads(file.read_bytes()) if file.is_file() else None,
        num_classes=len(names),
    )


def _save_onnx(source: Path, path: Path) -> None:
    import onnx

    try:
        model = onnx.load(source)  # with the tensors that lie in files of their own
        onnx.save(model, path)
    except Exception:  # noqa: BLE001 - whoever reads it says what is wrong with it
        shutil.copyfile(source, path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
