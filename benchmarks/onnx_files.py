"""Cut ONNX files of full-size networks that were not written for Offramp, train their exits, and serve them.

    python -m benchmarks.onnx_files

The networks come from the `transformers` package, with random weights, and are exported by torch. Each file is cut, its
exits learn from random photos with random labels, and a bundle is served by an edge and a cloud node, whose answers are
compared with those of the whole file.
"""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import httpx
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.backbones import of_architecture
from offramp.authoring.backbones.onnx.attach import attach_exits_to_onnx
from offramp.authoring.export import export_bundle
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.normalise import Normalise
from offramp.bundle import Preprocessing
from offramp.cli.processes import node_process
from offramp.command import Command, run_command
from offramp.errors import ConfigError

_Result = TypeVar("_Result")
_SIDE = 224
_CLASSES = 100
_PREPROCESSING = Preprocessing(height=_SIDE, width=_SIDE, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3)
_PHOTOS = 8
_STEPS = 30
_IMAGE: dict[str, Any] = {"image_size": _SIDE, "num_labels": _CLASSES}

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet-50": of_architecture("ResNet", num_labels=_CLASSES),
    "MobileNetV2": of_architecture("MobileNetV2", **_IMAGE),
    "ConvNeXt-T": of_architecture("ConvNext", layer_scale_init_value=0.5, **_IMAGE),
    "ViT-Ti": of_architecture(
        "ViT", hidden_size=192, num_attention_heads=3, intermediate_size=768, num_hidden_layers=12, **_IMAGE
    ),
    "EfficientNet-B0": of_architecture(
        "EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, **_IMAGE
    ),
}


class OnnxFiles(Command):
    """Cut the ONNX file of every network, train its exits, and serve it.

    Example: python -m benchmarks.onnx_files --network ViT-Ti
    """

    network: list[str] = Field(default=list(NETWORKS), description="which networks; all unless given")
    dynamo: bool = Field(default=True, description="the newer of torch's two exporters, or the older one")

    def execute(self) -> None:
        """Take each network in turn."""
        table = Table(title=f"ONNX files cut by attach_exits_to_onnx, images of {_SIDE} x {_SIDE}")
        for column in (
            "network",
            "file",
            "possible cuts",
            "exits at, feature shape",
            "MACs",
            "cut",
            "difference",
        ):
            table.add_column(column)
        for column in ("loss of the exits, 30 steps", "export", "served, as the file says"):
            table.add_column(column)
        unknown = set(self.network) - set(NETWORKS)
        if unknown:
            raise ConfigError(f"no network '{unknown.pop()}'; choose from {', '.join(NETWORKS)}")
        for name in self.network:
            with tempfile.TemporaryDirectory() as directory:
                table.add_row(name, *_row(NETWORKS[name], Path(directory), dynamo=self.dynamo))
        Console(width=None if sys.stdout.isatty() else 200).print(table)


def lively(model: nn.Module, side: int) -> nn.Module:
    """Give a network with random weights other answers for other images: large weights, batch norms that saw noise."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(16, 3, side, side))
    return model.eval()


def written(
    model: nn.Module,
    path: Path,
    *,
    shape: tuple[int, ...],
    dynamo: bool = False,
    open_sides: tuple[int, ...] = (0,),
    batch: int = 2,
    opset: int = 17,
) -> Path:
    """Export a model as torch's users do; `open_sides` are the dimensions of its input that stay open."""
    images = torch.zeros(batch, *shape, dtype=next((p.dtype for p in model.parameters()), None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            sides = {side: torch.export.Dim(f"side_{side}", min=1) for side in open_sides}
            program = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=(sides,), verbose=False)
            assert program is not None
            program.save(path)
        else:
            torch.onnx.export(
                model,
                (images,),
                path,
                dynamo=False,
                input_names=["images"],
                dynamic_axes={"images": {side: f"side_{side}" for side in open_sides}},
                opset_version=opset,
            )
    return path


def _row(build: Callable[[], nn.Module], directory: Path, *, dynamo: bool) -> list[str]:
    torch.manual_seed(0)
    shape = (3, _SIDE, _SIDE)
    path = written(lively(build(), _SIDE), directory / "m.onnx", shape=shape, dynamo=dynamo)
    network, cut_s = _timed(lambda: attach_exits_to_onnx(path))
    origin = network.origin
    assert origin is not None
    pixels = np.random.default_rng(0).integers(0, 256, (_PHOTOS, _SIDE, _SIDE, 3), dtype=np.uint8)
    before, after = _train_exits(network, pixels)
    _, export_s = _timed(
        lambda: export_bundle(
            network,
            directory / "bundle",
            name="own",
            labels=[str(number) for number in range(_CLASSES)],
            preprocessing=_PREPROCESSING,
            split_point=2,
        )
    )
    same = _served_alike(directory / "bundle", path, pixels)
    last = origin.chosen[-1]
    return [
        f"{sum(file.stat().st_size for file in directory.glob('m.onnx*')) / 1e6:.0f} MB",
        str(len(origin.cuts)),
        ", ".join(f"{cut.share:.0%} {cut.feature_shape}" for cut in origin.chosen),
        f"{last.macs / last.share / 1e6:.0f} M",
        f"{cut_s:.1f} s",
        f"{origin.difference:.1e}",
        f"{before:.2f} to {after:.2f}",
        f"{export_s:.1f} s",
        f"{same} of {len(pixels)}",
    ]


def _timed(work: Callable[[], _Result]) -> tuple[_Result, float]:
    started = perf_counter()
    result = work()
    return result, perf_counter() - started


def _train_exits(network: EarlyExitNetwork, pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Train the early exits on features of the photos with random labels; their loss before and after."""
    image_BCHW = Normalise(_PREPROCESSING)(torch.from_numpy(pixels))
    class_B = torch.randint(_CLASSES, (len(pixels),))
    with torch.no_grad():
        features = {number: network.feature_behind(number, image_BCHW) for number in network.exit_blocks[:-1]}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    losses = []
    for _ in range(_STEPS + 1):
        logits = [network.eecs[str(number)](feature) for number, feature in features.items()]
        loss = torch.stack([nn.functional.cross_entropy(logits_BK, class_B) for logits_BK in logits]).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch lacks its types
        optimizer.step()
    return losses[0], losses[-1]


def _served_alike(bundle: Path, path: Path, pixels: NDArray[np.uint8]) -> int:
    """How many photos get the same class from two nodes, through every block, as from the whole file."""
    session = onnxruntime.InferenceSession(path)
    images = Normalise(_PREPROCESSING)(torch.from_numpy(pixels)).numpy()
    expected = session.run(None, {session.get_inputs()[0].name: images})[0].argmax(axis=1)
    answers = []
    with (
        node_process("cloud_node", [str(bundle), "--port", "0"], name="cloud") as cloud,
        node_process(
            "edge_node", [str(bundle), "--port", "0", "--upstream", cloud.address], name="edge"
        ) as edge,
        httpx.Client(base_url=f"http://{edge.address}", timeout=60) as client,
    ):
        for photo in pixels:
            file = io.BytesIO()
            Image.fromarray(photo).save(file, "PNG")
            said = client.post("/v1/predict", content=file.getvalue()).raise_for_status().json()
            answers.append(said)
    return sum(
        said["label"] == str(label) and said["exit"]["tier"] == "cloud" and not said["degraded"]
        for said, label in zip(answers, expected, strict=True)
    )


if __name__ == "__main__":
    run_command(OnnxFiles, sys.argv[1:], program="python -m benchmarks.onnx_files")
