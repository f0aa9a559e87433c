"""The benchmark against other servers: what rivals are given, and what is made of what they did."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serving.backbone import backbone_of
from benchmarks.serving.bare import Pass
from benchmarks.serving.choosing import accuracy_of_backbone, choose
from benchmarks.serving.load import read_turn
from benchmarks.serving.measuring import ALONE, OFFRAMP, ONE_CORE, Comparison, Measured, Plan, Seen
from benchmarks.serving.page import page_of
from benchmarks.serving.photos import describe, enlarged, folder_of
from benchmarks.serving.rivals import RIVALS
from offramp.authoring.data import LabelledImages, load_images, split_train
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.export import export_bundle
from offramp.bundle import Bundle, Manifest, load_bundle, write_manifest
from offramp.bundle.manifest import Measured as AsMeasured
from offramp.bundle.provenance import Data, Provenance, Split
from offramp.engine.runtime import load_blocks
from offramp.errors import ConfigError
from tests.conftest import ROOT
from tests.nodes import png
from tests.tiny import COLOUR_8, noise, tiny_network

_SPLIT = Split(seed=0, validation=16)
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
    # In one piece, other operators are fused, so that in int8 a value may be rounded to the level beside. In float32,
    # the last bits differ, over 50 layers.
    allowed = 0.05 if bundle.manifest.precision == "int8" else 1e-5
    np.testing.assert_allclose(found[0], output.probabilities, atol=allowed)
    np.testing.assert_allclose(found[1], output.confidence, atol=allowed)


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
    with pytest.raises(ConfigError, match="no request to http://x was answered"):
        read_turn("TURN 0 2000000 0 0 0 0", "http://x")


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


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder with 48 photos to train on, and 20 of them as the test part."""
    folder, images = tmp_path_factory.mktemp("photos"), noise()
    assert images.labels is not None
    for part, count in (("train", 48), ("test", 20)):
        for number, (pixels, index) in enumerate(zip(images.pixels[:count], images.classes, strict=False)):
            file = folder / part / images.labels[index] / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(pixels))
    return folder


@pytest.fixture(scope="module")
def aggregating(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that aggregates, with 'full' measured at 100 % and 'quick' at 25 %."""
    torch.manual_seed(0)
    train = load_images(photos, "train", COLOUR_8)
    assert train.labels is not None
    data = Data(name="noise", samples=len(train), fingerprint=train.fingerprint(), split=_SPLIT)
    bundle = export_bundle(
        tiny_network(),
        tmp_path_factory.mktemp("bundles") / "aggregating",
        name="aggregating",
        labels=train.labels,
        preprocessing=COLOUR_8,
        split_point=2,
        aggregates=True,
        provenance=Provenance(commands=("train",), recipe="tiny", seed=0, epochs=1, data=data, versions={}),
    )
    full = bundle.manifest.operating_point
    points = (
        full.model_copy(update={"measured": at(1.0, macs=2)}),
        full.model_copy(update={"name": "quick", "thetas": (0.0, 0.0), "measured": at(0.25, macs=1)}),
    )
    changed = bundle.manifest.model_copy(update={"operating_points": points})
    write_manifest(bundle.directory, Manifest.model_validate(changed.model_dump()))
    return load_bundle(bundle.directory)


def at(accuracy: float, *, macs: float) -> AsMeasured:
    return AsMeasured(
        samples=16, accuracy=accuracy, exit_rates=(0.0, 0.0, 1.0), macs_mean=macs, offload_rate=1.0
    )


def test_a_bundle_that_aggregates_is_held_against_its_backbone(
    aggregating: Bundle, photos: Path, tmp_path: Path
) -> None:
    chosen = choose(aggregating, photos, max_drop=100)
    train = load_images(photos, "train", COLOUR_8)
    validation = split_train(train, _SPLIT).validation
    of_backbone = accuracy_of_backbone(aggregating, validation)
    assert chosen.point.name == "quick" and 0 < of_backbone < 1
    assert chosen.drop == pytest.approx(100 * (of_backbone - 0.25))
    test = load_images(photos, "test", COLOUR_8)
    assert chosen.test_accuracy_of_backbone == accuracy_of_backbone(aggregating, test)
    table = predict_every_exit(aggregating, test.pixels).against(test.classes)
    assert chosen.test_accuracy == table.correct[:, 0].mean()
    with pytest.raises(ConfigError, match="aggregates"):
        choose(aggregating, tmp_path, max_drop=0.5)


def test_a_bundle_that_was_never_calibrated_has_no_such_point(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run offramp calibrate"):
        choose(tiny_bundle, tmp_path, max_drop=0.2)


class OnDemand:
    """Pixels that are made when they are asked for; remembers the most that it was asked for at once."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.most_bytes = 0

    def __getitem__(self, index: slice) -> NDArray[np.uint8]:
        count = len(range(self.shape[0])[index])
        self.most_bytes = max(self.most_bytes, count * math.prod(self.shape[1:]))
        return np.zeros((count, *self.shape[1:]), dtype=np.uint8)


def test_the_backbones_accuracy_needs_few_photos_in_memory(tiny_bundle: Bundle) -> None:
    pixels: Any = OnDemand(12_000, 8, 8, 3)
    images = LabelledImages(pixels, np.zeros(12_000, dtype=np.int64), tiny_bundle.manifest.labels, ())
    assert accuracy_of_backbone(tiny_bundle, images) in (0.0, 1.0)
    assert 0 < pixels.most_bytes <= 1 << 20


def measured(per_second: float, p50_ms: float, **cpu_us: float) -> Measured:
    return Measured(
        start_s=(0.5,),
        turns=tuple(
            Seen(
                clients=n,
                per_second=per_second,
                p50_ms=p50_ms,
                p90_ms=9,
                p99_ms=9,
                cpu_us=cpu_us,
                busiest=0.5,
            )
            for n in (1, 16)
        ),
    )


def compared() -> Comparison:
    return Comparison(
        bundle="x",
        point="drop-0",
        accuracy_drop=0.1,
        servers={
            OFFRAMP: measured(3000, 0.5, edge=200, cloud=100),
            ALONE: measured(4800, 0.5, edge=330),
            ONE_CORE: measured(2700, 0.5, edge=330),
            "fast": measured(2000, 1.0, server=500),
            "prompt": measured(1000, 0.8, server=900),
            "broken": Measured(failed="it did not start"),
        },
        bare=(Pass(per_second=3600, decode_ms=0.1), Pass(per_second=3600, decode_ms=0.1)),
        non_exiting_ratio=1.2,
    )


def test_ratios_are_to_the_best_rival_of_each_kind() -> None:
    found = compared()
    assert found.best(16) == "fast"
    assert found.ratios(1, 16) == {
        "throughput_ratio_16": 1.5,
        "latency_ratio_1": 0.625,
        "edge_cpu_ratio": 0.4,
        "cpu_ratio": 0.6,
        "limit_share": 0.75,
        "non_exiting_ratio": 1.2,
        "decoding_share": pytest.approx(0.27),
    }


def test_the_page_says_which_photos_were_sent_and_what_decoding_costs(tmp_path: Path) -> None:
    plan = Plan(
        clients=(1, 16),
        rounds=2,
        seconds=3,
        rivals=(),
        environments=tmp_path,
        photos=tmp_path,
        sent="24 photos of 12 megapixels",
        megapixels=12,
        edge=(),
        cloud=(),
    )
    page = page_of([compared()], plan)
    assert "wrk sends 24 photos of 12 megapixels" in page and "x-12mp.svg" in page
    assert "edge alone on one core | 27% |" in page and "| 0.10 ms |" in page


def test_no_photos_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --photos"), folder_of(tmp_path / "none"):
        pass


def test_photos_are_enlarged_once_to_the_size_of_a_cameras(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.jpg")
    folder = enlarged(tmp_path / "photos", 0.3, tmp_path / "cache")
    (made,) = folder.iterdir()
    with Image.open(made) as photo:
        assert photo.size == (632, 472)
    before = made.stat().st_mtime_ns
    assert enlarged(tmp_path / "photos", 0.3, tmp_path / "cache") == folder
    assert made.stat().st_mtime_ns == before
    assert describe(folder).startswith("1 photos of 0.3 megapixels and ")


def test_every_rival_has_its_program_and_a_name_of_its_own() -> None:
    assert len({rival.name for rival in RIVALS}) == len(RIVALS)
    for rival in RIVALS:
        for part in rival.command:
            if part.endswith(".py"):
                assert Path(part).exists()
