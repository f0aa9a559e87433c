"""From a network to a bundle: equal to the network, and refused where it would not serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.export import export_bundle
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.confidence import Confidence, ConfidenceHead
from offramp.authoring.networks.layers import pooled_linear
from offramp.authoring.networks.normalise import Normalise
from offramp.authoring.selection.temperature import fit_temperature, negative_log_likelihood
from offramp.bundle import Bundle, Preprocessing
from offramp.bundle.manifest import Measure
from offramp.engine.runtime import load_blocks
from offramp.errors import BundleError, ConfigError
from tests.conftest import ROOT
from tests.tiny import tiny_network

PLAIN: list[Measure] = ["max_softmax", "score_margin", "entropy"]
PREPROCESSING = Preprocessing(height=8, width=8, mode="RGB", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def exported(network: EarlyExitNetwork, directory: Path, **changes: Any) -> Bundle:
    fields: dict[str, Any] = {
        "name": "tiny",
        "labels": ("ant", "bee", "cat", "dog"),
        "preprocessing": PREPROCESSING,
        "split_point": 2,
    }
    return export_bundle(network, directory, **{**fields, **changes})


@pytest.mark.parametrize(
    "how",
    [
        *(Confidence(measure) for measure in PLAIN),
        Confidence("learned", temperature=2.0, head=ConfidenceHead((1.0, 2.0, -1.5), 0.2)),
        Confidence("failure", head=ConfidenceHead((1.0, -2.0, 0.5, 1.5, 0.1, -0.2, 0.3, -0.1, 1.5), 0.2)),
    ],
)
def test_the_graphs_compute_what_the_network_does(tmp_path: Path, how: Confidence) -> None:
    network = tiny_network()
    bundle = exported(network, tmp_path / "b", confidences=[how] * 3)
    for count in (1, 2, 7):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        with torch.no_grad():
            logits_by_exit = network.eval()(Normalise(PREPROCESSING)(torch.from_numpy(pixels)))
        batch: Any = pixels
        for block, logits_BK in zip(load_blocks(bundle, 1, 3), logits_by_exit, strict=True):
            output = block.run(batch)
            expected = how.of(logits_BK)
            assert output.probabilities is not None and output.confidence is not None
            np.testing.assert_allclose(output.probabilities, expected[0].numpy(), atol=1e-5)
            np.testing.assert_allclose(output.confidence, expected[1].numpy(), atol=1e-5)
            batch = output.feature


def test_a_temperature_is_compiled_into_its_exit_alone(tmp_path: Path) -> None:
    network = tiny_network()
    plain, cooled = (
        exported(network, tmp_path / "a"),
        exported(network, tmp_path / "b", confidences=[Confidence(temperature=t) for t in (1, 4, 1)]),
    )
    assert [exit.temperature for exit in cooled.manifest.exits] == [1, 4, 1]
    pixels: Any = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    first, second = (predict_every_exit(bundle, pixels) for bundle in (plain, cooled))
    np.testing.assert_array_equal(first.confidence[:, [0, 2]], second.confidence[:, [0, 2]])
    assert (second.confidence[:, 1] < first.confidence[:, 1]).all()
    np.testing.assert_array_equal(first.said, second.said)


def test_one_confidence_for_each_exit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 confidences for 3 exits"):
        exported(tiny_network(), tmp_path / "b", confidences=[Confidence()] * 2)


@pytest.mark.parametrize(
    ("temperature", "by_golden_section"),
    [(0.5, 0.50741691), (1.0, 1.00924508), (3.0, 2.94291318)],
)
def test_the_temperature_that_made_the_classes_is_found_again(
    temperature: float, by_golden_section: float
) -> None:
    generator = np.random.default_rng(0)
    logits_NK = generator.normal(0, 3, (20_000, 5)).astype(np.float32)
    # Adding Gumbel noise draws a class with the probabilities of the softmax.
    classes_N = (logits_NK / temperature + generator.gumbel(size=logits_NK.shape)).argmax(axis=1)
    found = fit_temperature(logits_NK, classes_N)
    assert found == pytest.approx(temperature, rel=0.05)
    assert found == pytest.approx(by_golden_section, abs=1e-6)
    least = negative_log_likelihood(logits_NK, classes_N, found)
    assert all(least <= negative_log_likelihood(logits_NK, classes_N, found * f) for f in (0.9, 1.1))


def test_normalisation_scales_each_channel_on_its_own() -> None:
    pixels_BHWC = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    found = Normalise(PREPROCESSING)(pixels_BHWC).flatten()
    expected = [(0 - 0.4) / 0.2, (128 / 255 - 0.5) / 0.3, (1 - 0.6) / 0.4]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_block_without_an_eec_hands_on_its_feature_only(exitless_bundle: Bundle) -> None:
    (block,) = load_blocks(exitless_bundle, 1, 1)
    output = block.run(np.zeros((2, 8, 8, 3), dtype=np.uint8))
    assert output.feature is not None and output.feature.shape == (2, 8, 4, 4)
    assert output.probabilities is None and output.confidence is None


def test_the_new_bundle_never_stops_early(tmp_path: Path) -> None:
    manifest = exported(tiny_network(), tmp_path / "b").manifest
    assert manifest.operating_point.name == "full" and manifest.operating_point.thetas == (1.0, 1.0)


def test_no_path_of_the_machine_that_made_it_is_left_in_a_graph(tiny_bundle: Bundle) -> None:
    for graph in tiny_bundle.graphs.values():
        assert str(ROOT).encode() not in graph and b".py" not in graph


def test_an_eec_that_costs_more_than_the_next_block_is_refused(tmp_path: Path) -> None:
    network = tiny_network()
    large = nn.Sequential(nn.Conv2d(8, 64, 5, padding=2), pooled_linear(64, 4))
    last = network.eec_behind(3)
    assert last is not None
    with pytest.raises(ConfigError, match="leaving early would not pay"):
        exported(EarlyExitNetwork(list(network.blocks), {1: large, 3: last}), tmp_path / "b")


def test_a_label_for_each_class(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exit 1 has 4 classes, but there are 2 labels"):
        exported(tiny_network(), tmp_path / "b", labels=("ant", "bee"))


@pytest.mark.parametrize("name", ["My-Model", "", "a b", "x" * 68])
def test_a_name_that_no_bundle_can_have_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be named .* expected at most 67 characters of a-z"):
        exported(tiny_network(), tmp_path / "b", name=name)


def test_a_split_beyond_the_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="split_point is 4, but the network has blocks 1 to 3"):
        exported(tiny_network(), tmp_path / "b", split_point=4)


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BundleError, match="not empty"):
        exported(tiny_network(), tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_a_confidence_that_is_not_a_number_is_refused_with_its_exit(tmp_path: Path) -> None:
    network = tiny_network()
    eec = network.eec_behind(2)
    assert isinstance(eec, nn.Sequential) and isinstance(eec[-1], nn.Linear)
    eec[-1].weight.data[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="exit 2 returns what is not a number"):
        exported(network, tmp_path / "b")


class Fickle(nn.Module):
    """A block that computes something else once it is exported."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return feature * (2.0 if torch.compiler.is_exporting() else 1.0)


def test_graphs_that_differ_from_the_network_are_refused(tmp_path: Path) -> None:
    network = tiny_network()
    blocks = [network.blocks[0], nn.Sequential(network.blocks[1], Fickle()), network.blocks[2]]
    eecs = {number: network.eec_behind(number) or nn.Identity() for number in (1, 2, 3)}
    with pytest.raises(BundleError, match="differ from the network by"):
        exported(EarlyExitNetwork(blocks, eecs), tmp_path / "b")
    assert not (tmp_path / "b").exists(), "what is refused is not left to be served"
