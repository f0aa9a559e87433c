"""The entries of the gallery: how each network is made, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network; its run and its bundle have the same name.

    data: path below the data directory. options: of `offramp train`. start: entry whose run it starts from. teacher:
    entry whose run teaches it.
    calibrate: options of `offramp calibrate`; none for a static network, which is exported without early exits.
    compress: options of `offramp compress` for the bundle that ships, if one does. narrow_drop: its --max-drop.
    aggregates: whether the last exit aggregates in the bundle without a bottleneck; with a bottleneck it always does.
    points: operating points that the table shows; the default one if empty. rivals: entries with static networks.
    published: what the literature reports. attach: options of `offramp attach`, for a model that is trained already;
    model: its file, below the data directory. export: options of `offramp export`. ships: whether the bundle does,
    though it has no bottleneck.
    """

    name: str
    data: str
    recipe: str = ""
    options: tuple[str, ...] = ()
    start: str | None = None
    teacher: str | None = None
    calibrate: tuple[str, ...] = ("--max-drop", "0.5")
    compress: tuple[str, ...] = ()
    narrow_drop: str = "0"
    aggregates: bool = False
    points: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    published: str = "–"
    attach: tuple[str, ...] = ()
    model: str = ""
    export: tuple[str, ...] = ()
    ships: bool = False


_CIFAR = "cifar10.zip"
_MORE = ("--learning-rate", "0.05", "--epochs", "20")
_CERTIFIED = ("--guarantee", "0.02")
_NARROW = ("--bytes", "128", "--epochs", "24", "--learning-rate", "0.05")
_SMALL = ("--bytes", "64", "--epochs", "12", "--learning-rate", "0.05")
_ON_TOP = ("--epochs", "15")
_TAUGHT = ("--regime", "distill", "--unfrozen", "--alpha", "0.6")
_DECAYED = ("--weight-decay", "5e-4")
_GROCERY = "grocery.zip"
_LITE0, _LITE0_WEIGHTS = "offramp.authoring.networks.efficientnet_lite", "efficientnet-lite0.pth"
_ATTACHED = (
    *("--factory", f"{_LITE0}:efficientnet_lite0", "--new-head"),
    *("--exits", "0.13,0.46", "--eec-shares", "0.205,0.08"),
)
_BILINEAR = f"{_LITE0}:PREPROCESSING_BILINEAR"
_FINE_TUNED = ("--epochs", "12", "--frozen-blocks", "1")

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="b-lenet-mnist",
        recipe="b-lenet-mnist",
        data="mnist",
        calibrate=("--max-drop", "0.1", "--guarantee", "0.005"),
        compress=_SMALL,
        published="BranchyNet: 99.25 % (backbone 99.20), 5.4×, 94.3 % at exit 1",
    ),
    Entry(
        name="b-lenet-fashion",
        recipe="b-lenet-fashion",
        data="fashion-mnist",
        calibrate=("--max-drop", "0.5", *_CERTIFIED),
        compress=_SMALL,
    ),
    Entry(
        name="alexnet-backbone",
        recipe="b-alexnet-cifar10",
        data=_CIFAR,
        options=("--regime", "backbone"),
        calibrate=(),
    ),
    Entry(
        name="b-alexnet-cifar10",
        recipe="b-alexnet-cifar10",
        data=_CIFAR,
        calibrate=("--max-drop", "0.5", *_CERTIFIED),
        compress=_NARROW,
        narrow_drop="0.2",
        aggregates=True,
        points=("drop-0.5", "drop-1"),
        rivals=("alexnet-backbone",),
        published="BranchyNet: 79.19 % (backbone 78.38), 1.5×",
    ),
    Entry(
        name="resnet20-cifar10",
        recipe="resnet20-cifar10",
        data=_CIFAR,
        options=("--epochs", "45"),
        start="resnet20-first",
        calibrate=(),
    ),
    # It and the next one were trained on a GPU.
    Entry(
        name="wide-resnet20-cifar10",
        recipe="wide-resnet20-cifar10",
        data=_CIFAR,
        options=("--epochs", "45", "--batch-size", "256", "--learning-rate", "0.2"),
        calibrate=(),
    ),
    Entry(
        name="b-resnet56-cifar10",
        recipe="b-resnet56-cifar10",
        data=_CIFAR,
        options=(*_TAUGHT, "--epochs", "150", "--batch-size", "512", "--learning-rate", "0.25", *_DECAYED),
        teacher="wide-resnet20-cifar10",
        calibrate=("--max-drop", "0.5", *_CERTIFIED),
        compress=("--bytes", "128", "--epochs", "12", "--learning-rate", "0.05"),
        narrow_drop="0.2",
        aggregates=True,
        points=("drop-0", "drop-0.5", "drop-1"),
        published="BranchyNet, 110 layers: 79.17 % (backbone 80.70), 1.9×",
    ),
    Entry(
        name="gc-alexnet-cifar10",
        recipe="gc-alexnet-cifar10",
        data=_CIFAR,
        calibrate=("--scheme", "gates", "--max-drop", "0.5", *_CERTIFIED),
        compress=_NARROW,
        points=("gates-0.5", "drop-0.5"),
        rivals=("alexnet-backbone",),
    ),
    Entry(
        name="lite0-backbone",
        data=_GROCERY,
        model=_LITE0_WEIGHTS,
        attach=(*_ATTACHED, "--preprocessing", _BILINEAR),
        options=("--regime", "backbone", *_FINE_TUNED),
        calibrate=(),
    ),
    Entry(
        name="lite0-144-backbone",
        data=_GROCERY,
        model=_LITE0_WEIGHTS,
        attach=(*_ATTACHED, "--preprocessing", "benchmarks.gallery.recipes:PIXELS_144"),
        options=("--regime", "backbone", *_FINE_TUNED),
        calibrate=(),
    ),
    Entry(
        name="b-lite0-grocery",
        data=_GROCERY,
        model=_LITE0_WEIGHTS,
        attach=(*_ATTACHED, "--preprocessing", _BILINEAR),
        options=(*_FINE_TUNED, "--self-distillation", "0.5"),
        export=("--weights", "float16"),
        ships=True,
        calibrate=("--max-cost", "0.45", "--guarantee", "0.05"),
        points=("cost-0.45", "drop-0.5"),
        rivals=("lite0-backbone", "lite0-144-backbone"),
    ),
)

# Runs that others start from, not shown themselves: the small ResNet is trained twice.
FIRST: tuple[Entry, ...] = (
    Entry(
        name="resnet20-first",
        recipe="resnet20-cifar10",
        data=_CIFAR,
        options=("--epochs", "30"),
        calibrate=(),
    ),
)

# The training regimes on one network, without aggregation. `alexnet-joint` repeats the training of `b-alexnet-cifar10`
# above, whose run was made before runs recorded their time.
FAMILIES: tuple[Entry, ...] = (
    Entry(name="alexnet-joint", recipe="b-alexnet-cifar10", data=_CIFAR),
    Entry(
        name="alexnet-mixed",
        recipe="b-alexnet-cifar10",
        data=_CIFAR,
        options=("--regime", "joint", *_MORE),
        start="alexnet-backbone",
    ),
    Entry(
        name="alexnet-layer-wise",
        recipe="b-alexnet-cifar10",
        data=_CIFAR,
        options=("--regime", "layer-wise", *_ON_TOP),
    ),
    Entry(
        name="alexnet-eecs-frozen",
        recipe="b-alexnet-cifar10",
        data=_CIFAR,
        options=("--regime", "distill", "--alpha", "0", *_ON_TOP),
        start="alexnet-backbone",
    ),
    Entry(
        name="alexnet-distill-frozen",
        recipe="b-alexnet-cifar10",
        data=_CIFAR,
        options=("--regime", "distill", "--alpha", "0.9", *_ON_TOP),
        start="alexnet-backbone",
    ),
    Entry(
        name="alexnet-distill-unfrozen",
        recipe="b-alexnet-cifar10",
        data=_CIFAR,
        options=("--regime", "distill", "--unfrozen", "--alpha", "0.9", *_ON_TOP, "--learning-rate", "0.05"),
        start="alexnet-backbone",
    ),
)
