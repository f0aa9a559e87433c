"""What a shipped block's graph looks like in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from offramp.authoring.quantising.graphs import Quantiser
from offramp.bundle import load_bundle
from tests.conftest import ROOT


def test_no_pool_that_only_keeps_a_layout_of_float32_is_left(tmp_path: Path) -> None:
    bundle = load_bundle(ROOT / "models" / "b-resnet56-cifar10")
    kinds = {node.op_type for node in onnx.load_from_string(bundle.graphs[2]).graph.node}
    feature = bundle.manifest.blocks[0].feature
    assert "MaxPool" in kinds and feature is not None
    given = np.random.default_rng(0).normal(size=(4, *feature.shape)).astype(np.float32)
    made = onnx.load_from_string(Quantiser(bundle.graphs[2], [given], None, tmp_path).quantised(()).graph)
    assert "MaxPool" not in {node.op_type for node in made.graph.node}
