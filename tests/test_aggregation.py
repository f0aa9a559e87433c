"""A last exit that aggregates: the mean it gives, and that tiers cut anywhere give the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from offramp.authoring.evaluation.predictions import ExitPredictions, predict_every_exit
from offramp.authoring.export import export_bundle
from offramp.bundle import Bundle, Preprocessing
from offramp.engine.aggregation import joined, rooted
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Answer, Handover, Tier, aggregated
from tests.nodes import png, predict, running_cloud, running_edge
from tests.tiny import tiny_network

_NEVER = (1.0, 1.0)


def _tiny(directory: Path, *, aggregates: bool) -> Bundle:
    torch.manual_seed(0)
    return export_bundle(
        tiny_network(),
        directory,
        name="tiny",
        labels=("ant", "bee", "cat", "dog"),
        preprocessing=Preprocessing(height=8, width=8, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3),
        split_point=2,
        aggregates=aggregates,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _tiny(tmp_path_factory.mktemp("aggregating") / "tiny", aggregates=True)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(bundle: Bundle, pixels: NDArray[np.uint8]) -> ExitPredictions:
    return predict_every_exit(bundle, pixels)


def test_it_is_the_geometric_mean() -> None:
    exits = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]], dtype=np.float32)
    mean = np.exp(np.log(exits.astype(np.float64)).mean(axis=0))
    found = rooted(joined(exits[2], list(exits[:2])), 3)
    np.testing.assert_allclose(found, mean / mean.sum(), rtol=1e-6)


def test_no_exit_alone_rules_a_class_out() -> None:
    sure, unsure = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
    np.testing.assert_allclose(rooted(joined(sure, [unsure]), 2), [0.5, 0.5])


def test_an_exit_before_the_last_answers_alone(
    bundle: Bundle, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    alone = predict_every_exit(_tiny(tmp_path / "tiny", aggregates=False), pixels)
    together = predict_every_exit(bundle, pixels)
    np.testing.assert_array_equal(together.probabilities[:, :-1], alone.probabilities[:, :-1])
    assert np.abs(together.probabilities[:, -1] - alone.probabilities[:, -1]).max() > 0.01


@pytest.mark.parametrize("split", [2, 3])
def test_a_network_cut_anywhere_answers_the_same_bit_for_bit(
    bundle: Bundle, pixels: NDArray[np.uint8], expected: ExitPredictions, split: int
) -> None:
    manifest = bundle.manifest
    edge = Tier(manifest, load_blocks(bundle, 1, split - 1), start=1)
    cloud = Tier(manifest, load_blocks(bundle, split, 3), start=split)
    whole = Tier(manifest, load_blocks(bundle, 1, 3), start=1).run(pixels, _NEVER)
    for at, handover in enumerate(edge.run(pixels, _NEVER)):
        assert isinstance(handover, Handover)
        [answer] = cloud.run(handover.feature[np.newaxis], _NEVER)
        assert isinstance(answer, Answer)
        joint = aggregated(answer, handover.passed, manifest=manifest, first_block=1)
        for found in (joint, whole[at]):
            assert isinstance(found, Answer)
            np.testing.assert_array_equal(found.probabilities, expected.probabilities[at, -1])
            assert found.confidence == pytest.approx(float(expected.confidence[at, -1]), abs=0)


@pytest.mark.parametrize(("blocks", "sent"), [("2-3", "feature"), ("1-3", "image")])
async def test_two_nodes_answer_what_was_evaluated_whatever_is_sent(
    bundle: Bundle, pixels: NDArray[np.uint8], expected: ExitPredictions, blocks: str, sent: str
) -> None:
    async with (
        running_cloud(bundle, blocks=blocks) as cloud,
        running_edge(bundle, upstream=cloud) as client,
    ):
        for at in range(5):
            answer = await predict(client, png(pixels[at]))
            assert (answer["sent"], answer["exit"]["name"]) == (sent, "final")
            assert answer["class_index"] == expected.said[at, -1]
            assert answer["confidence"] == pytest.approx(float(expected.confidence[at, -1]), abs=1e-9)


async def test_three_tiers_answer_the_same(
    bundle: Bundle, pixels: NDArray[np.uint8], expected: ExitPredictions
) -> None:
    async with (
        running_cloud(bundle, blocks="3-3") as cloud,
        running_cloud(bundle, blocks="2-2", upstream=cloud, tier="gateway") as gateway,
        running_edge(bundle, upstream=gateway) as client,
    ):
        for at in range(5):
            answer = await predict(client, png(pixels[at]))
            assert answer["exit"] == {"number": 3, "name": "final", "tier": "cloud"}
            assert answer["confidence"] == pytest.approx(float(expected.confidence[at, -1]), abs=1e-9)


def test_a_peer_that_does_not_aggregate_has_another_bundle(bundle: Bundle, tmp_path: Path) -> None:
    alone = _tiny(tmp_path / "tiny", aggregates=False)
    assert alone.manifest.bundle_id != bundle.manifest.bundle_id
