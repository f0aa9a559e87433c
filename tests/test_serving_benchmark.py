"""The benchmark against other servers: what rivals are given, and what is made of what they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.serving.backbone import backbone_of
from benchmarks.serving.choosing import choose
from benchmarks.serving.load import read_turn
from benchmarks.serving.measuring import ALONE, OFFRAMP, Comparison, Measured, Seen
from benchmarks.serving.photos import folder_of
from benchmarks.serving.rivals import RIVALS
from offramp.bundle import Bundle, load_bundle
from offramp.engine.runtime import load_blocks
from offramp.errors import ConfigError
from tests.conftest import ROOT

MODELS = sorted(path.name for path in (ROOT / "models").iterdir())


@pytest.mark.parametrize("name", MODELS)
def test_the_backbone_in_one_piece_says_what_its_blocks_say(name: str) -> None:
    bundle = load_bundle(ROOT / "models" / name)
    whole = onnxruntime.InferenceSession(backbone_of(bundle).SerializeToString())
    shape = bundle.manifest.preprocessing.pixel_shape
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    batch, output = pixels, None
    for block in load_blocks(bundle, 1, len(bundle.manifest.blocks)):
        output = block.run(batch)
        batch = output.feature if output.feature is not None else batch
    found = whole.run(["probabilities", "confidence"], {whole.get_inputs()[0].name: pixels})
    assert output is not None and output.probabilities is not None and output.confidence is not None
    np.testing.assert_allclose(found[0], output.probabilities, atol=1e-6)
    np.testing.assert_allclose(found[1], output.confidence, atol=1e-6)


def test_the_backbone_in_one_piece_has_no_early_exit() -> None:
    bundle = load_bundle(ROOT / "models" / "b-alexnet-cifar10")
    blocks = sum(len(_nodes(bundle, number)) for number in bundle.graphs)
    assert len(backbone_of(bundle).graph.node) < blocks
    assert [each.name for each in backbone_of(bundle).graph.output] == ["probabilities", "confidence"]


def _nodes(bundle: Bundle, number: int) -> list[object]:
    import onnx

    return list(onnx.load_from_string(bundle.graphs[number]).graph.node)


def test_what_wrk_says_is_read() -> None:
    turn = read_turn("Running 2s test\nTURN 5000 2000000 480 900 2100 0\n", "http://x")
    assert (turn.requests, turn.per_second) == (5000, 2500.0)
    assert (turn.p50_ms, turn.p90_ms, turn.p99_ms) == (0.48, 0.9, 2.1)


def test_a_turn_in_which_requests_failed_is_worth_nothing() -> None:
    with pytest.raises(ConfigError, match="3 of 5000 requests"):
        read_turn("TURN 5000 2000000 480 900 2100 3", "http://x")
    with pytest.raises(ConfigError, match="printed no figures"):
        read_turn("unable to connect", "http://x")


def test_the_cheapest_point_within_the_drop_is_served(tmp_path: Path) -> None:
    bundle = load_bundle(ROOT / "models" / "gc-alexnet-cifar10")
    assert [choose(bundle, tmp_path, max_drop=drop).point.name for drop in (0.0, 0.2, 1.0)] == [
        "drop-0",
        "drop-0.2",
        "drop-1",
    ]
    named = choose(bundle, tmp_path, max_drop=0.0, name="drop-5")
    assert named.point.name == "drop-5" and named.drop == pytest.approx(3.1, abs=0.5)
    with pytest.raises(ConfigError, match="no measured point 'nowhere'"):
        choose(bundle, tmp_path, max_drop=0.0, name="nowhere")


def test_a_bundle_that_aggregates_is_held_against_its_backbone(cifar10: Path, tmp_path: Path) -> None:
    bundle = load_bundle(ROOT / "models" / "b-alexnet-cifar10")
    chosen = choose(bundle, cifar10, max_drop=0.5)
    full = bundle.manifest.point_named("full").measured
    assert chosen.point.measured and full and chosen.test_accuracy and chosen.test_accuracy_of_backbone
    of_backbone = chosen.point.measured.accuracy + chosen.drop / 100
    assert chosen.drop <= 0.5 and of_backbone < full.accuracy
    assert chosen.test_accuracy_of_backbone == pytest.approx(of_backbone, abs=0.01)
    with pytest.raises(ConfigError, match="aggregates"):
        choose(bundle, tmp_path, max_drop=0.5)


def test_a_bundle_that_was_never_calibrated_has_no_such_point(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run offramp calibrate"):
        choose(tiny_bundle, tmp_path, max_drop=0.2)


def measured(per_second: float, p50_ms: float, **cpu_us: float) -> Measured:
    return Measured(
        turns=tuple(
            Seen(clients=n, per_second=per_second, p50_ms=p50_ms, p90_ms=9, p99_ms=9, cpu_us=cpu_us)
            for n in (1, 16)
        )
    )


def test_ratios_are_to_the_best_rival_of_each_kind() -> None:
    found = Comparison(
        bundle="x",
        point="drop-0",
        accuracy_drop=0.1,
        servers={
            OFFRAMP: measured(3000, 0.5, edge=200, cloud=100),
            ALONE: measured(2700, 0.5, edge=330),
            "fast": measured(2000, 1.0, server=500),
            "prompt": measured(1000, 0.8, server=900),
            "broken": Measured(failed="it did not start"),
        },
        bare_per_second=3600,
        non_exiting_ratio=1.2,
    )
    assert found.best(16) == "fast"
    assert found.ratios(1, 16) == {
        "throughput_ratio_16": 1.5,
        "latency_ratio_1": 0.625,
        "edge_cpu_ratio": 0.4,
        "cpu_ratio": 0.6,
        "limit_share": 0.75,
        "non_exiting_ratio": 1.2,
    }


def test_no_photos_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --photos"), folder_of(tmp_path / "none"):
        pass


def test_every_rival_has_its_program_and_a_name_of_its_own() -> None:
    assert len({rival.name for rival in RIVALS}) == len(RIVALS)
    for rival in RIVALS:
        for part in rival.command:
            if part.endswith(".py"):
                assert Path(part).exists()
