"""Early-exit neural networks, trained, bundled and served across edge and cloud.

These are the names that a notebook needs. Each one is imported when it is first used, so only the names from
`offramp.authoring` load torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offramp.authoring.backbones.attach import attach_exits
    from offramp.authoring.backbones.onnx.attach import attach_exits_to_onnx
    from offramp.authoring.backbones.saved import load_backbone, save_backbone
    from offramp.authoring.networks.early_exit import EarlyExitNetwork
    from offramp.authoring.recipes.recipe import Augmentation, Recipe
    from offramp.bundle import Bundle, Preprocessing, load_bundle
    from offramp.engine.classifier import Classifier, Prediction

# ONNX Runtime would report to its makers how it is used. It reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Augmentation",
    "Bundle",
    "Classifier",
    "EarlyExitNetwork",
    "Prediction",
    "Preprocessing",
    "Recipe",
    "attach_exits",
    "attach_exits_to_onnx",
    "load",
    "load_backbone",
    "load_bundle",
    "save_backbone",
]

_PLACES = {
    "Augmentation": "offramp.authoring.recipes.recipe",
    "Bundle": "offramp.bundle",
    "Classifier": "offramp.engine.classifier",
    "EarlyExitNetwork": "offramp.authoring.networks.early_exit",
    "Prediction": "offramp.engine.classifier",
    "Preprocessing": "offramp.bundle",
    "Recipe": "offramp.authoring.recipes.recipe",
    "attach_exits": "offramp.authoring.backbones.attach",
    "attach_exits_to_onnx": "offramp.authoring.backbones.onnx.attach",
    "load_backbone": "offramp.authoring.backbones.saved",
    "load_bundle": "offramp.bundle",
    "save_backbone": "offramp.authoring.backbones.saved",
}


def load(bundle: str | Path) -> Classifier:
    """A bundle on disk, ready to classify images in this process.

    Example: offramp.load("models/b-lenet-fashion").classify(Path("bag.png").read_bytes()).label

    Raises:
        BundleError: there is no bundle, or it is damaged or altered.
    """
    from offramp.bundle import load_bundle
    from offramp.engine.classifier import Classifier

    return Classifier(load_bundle(Path(bundle)))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("offramp")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'offramp' has no attribute '{name}'; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
