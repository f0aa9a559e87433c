"""Bundles that are not what they seem (row 14): each is refused at the start, on one line, and soon."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from offramp.bundle import load_bundle
from offramp.bundle.manifest import bundle_id_for
from tests.chaos.nodes import BUNDLE
from tests.chaos.stage import Check, Outcome, Scenario, Stage

_START_S = 20.0


def _external(folder: Path) -> None:
    """The first weight of block 3 lies in a file that no hash covers."""
    model = onnx.load(folder / "block-3.onnx")
    weight = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    place = Path("weights.bin")
    (folder.parent / place).write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=str(place))
    _replace(folder, 3, model)


def _loop(folder: Path) -> None:
    """Block 3 repeats a step 2^40 times."""
    model = onnx.load(folder / "block-3.onnx")
    name = "confidence"
    for node in model.graph.node:
        node.output[:] = ["once" if each == name else each for each in node.output]
        node.input[:] = ["once" if each == name else each for each in node.input]
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    times = helper.make_tensor("times", TensorProto.INT64, [], [2**40])
    steps = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Identity", ["value"], ["next"]),
    ]
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        steps,
        "body",
        [
            value("step", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("value", TensorProto.FLOAT, None),
        ],
        [value("go_on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.extend([yes, times])
    model.graph.node.append(helper.make_node("Loop", ["times", "yes", "once"], [name], body=body))
    _replace(folder, 3, model)


def _replace(folder: Path, number: int, model: onnx.ModelProto) -> None:
    graph = model.SerializeToString()
    (folder / f"block-{number}.onnx").write_bytes(graph)
    manifest = load_bundle(BUNDLE).manifest
    blocks = list(manifest.blocks)
    blocks[number - 1] = blocks[number - 1].model_copy(update={"sha256": hashlib.sha256(graph).hexdigest()})
    changed = manifest.model_copy(update={"blocks": tuple(blocks)})
    changed = changed.model_copy(update={"bundle_id": bundle_id_for(changed)})
    (folder / "bundle.json").write_text(changed.model_dump_json(), encoding="utf-8")


def _link(folder: Path) -> None:
    (folder / "block-1.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "block-1.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def _pipe(folder: Path) -> None:
    (folder / "block-1.onnx").unlink()
    os.mkfifo(folder / "block-1.onnx")


def _pipe_as_manifest(folder: Path) -> None:
    (folder / "bundle.json").unlink()
    os.mkfifo(folder / "bundle.json")


_MADE: dict[str, Callable[[Path], None]] = {
    "weights in another file": _external,
    "a symbolic link": _link,
    "a FIFO": _pipe,
    "a FIFO as manifest": _pipe_as_manifest,
    "a loop of 2^40 steps": _loop,
}


async def odd_bundles(stage: Stage) -> Outcome:
    checks = []
    for number, (name, make) in enumerate(_MADE.items()):
        folder = stage.folder / f"case-{number}" / "bundle"
        shutil.copytree(BUNDLE, folder)
        make(folder)
        here = Path.cwd()
        os.chdir(folder.parent)  # where a file beside the bundle would be found
        try:
            begun = time.monotonic()
            node = stage.run("cloud_node", str(folder), "--port", "0")
            await node.settled(_START_S)
        finally:
            os.chdir(here)
        status, said = node.process.poll(), node.log.strip().splitlines()
        took_s = time.monotonic() - begun
        refused = status == 2 and "Traceback" not in node.log
        how = (
            "starts"
            if node.is_ready
            else f"{'hangs' if status is None else status}: {said[-1][:90] if said else ''}"
        )
        checks.append(Check(f"{name} is refused", refused, f"{how} ({took_s:.1f} s)"))
        node.end()
    return Outcome(checks)


SCENARIOS = [Scenario(14, "odd-bundles", "weights elsewhere, a link, FIFOs, an endless loop", odd_bundles)]
