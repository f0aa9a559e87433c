"""Turn a torch model and a folder of photos, one sub-folder per class, into two serving nodes.

python examples/own_model.py samples/fashion-mnist made
"""

import sys

from torch import nn

from offramp.authoring.backbones.attach import attach_exits
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.recipes.recipe import Augmentation, Recipe
from offramp.bundle import Preprocessing
from offramp.cli.main import main


def with_exits(num_classes: int) -> EarlyExitNetwork:
    """Your classifier, trained or not; here a plain one for grey images."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    for channels in (16, 32, 64):
        layers += [nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes))
    return attach_exits(model, image_shape=(1, 28, 28), exits=(0.05, 0.3))


GREY = Preprocessing(height=28, width=28, mode="L", mean=(0.3,), std=(0.35,))
MOVED = Augmentation(shift=2, mirror=True)
RECIPE = Recipe(
    build=with_exits, preprocessing=GREY, exit_weights=(1, 1, 1), augmentation=MOVED, batch_size=32
)

if __name__ == "__main__":
    photos, made, *more = sys.argv[1:]
    run, bundle, data = f"{made}/run", f"{made}/bundle", ["--data", photos]
    train = ["train", "own_model:RECIPE", *data, "--out", run, "--epochs", "30", "--validation", "100"]
    for step in (train, ["export", run, "--out", bundle], ["calibrate", bundle, *data, "--max-drop", "1"]):
        main(step)
    main(["up", bundle, "--photos", photos, *more])
