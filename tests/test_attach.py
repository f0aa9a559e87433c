"""A classifier cut into blocks answers and trains as it would whole, for its own classes or for others."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from offramp.authoring.backbones.attach import attach_exits
from offramp.authoring.backbones.in_training import StochasticDepth
from offramp.authoring.export import bundling, export_bundle
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.check import check_answers, choose_layout
from offramp.authoring.recipes import named
from offramp.authoring.training.train import train
from offramp.bundle import Preprocessing
from offramp.errors import BundleError, ConfigError
from tests import odd_models as odd
from tests.odd_models import SHAPE, Plain, attach, computing
from tests.test_training import RECIPE, run_of, stripes

PREPROCESSING = Preprocessing(height=16, width=16, mode="RGB", mean=(0.5,) * 3, std=(0.5,) * 3)


def last_logits(network: EarlyExitNetwork, images: int = 3) -> torch.Tensor:
    with torch.no_grad():
        logits_BK: torch.Tensor = network(
            torch.rand(images, *SHAPE, generator=torch.Generator().manual_seed(0))
        )[-1]
    return logits_BK


def by_hand(*late: nn.Module) -> EarlyExitNetwork:
    """A network of two blocks that nothing was checked about."""
    torch.manual_seed(0)
    early = nn.Conv2d(3, 8, 3, padding=1)
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1), *late)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return EarlyExitNetwork(
        [early, block],
        {1: nn.Sequential(pooled, nn.Linear(8, 4)), 2: nn.Sequential(pooled, nn.Linear(16, 4))},
    ).eval()


def test_a_backbone_that_views_its_features_trains_with_the_channels_last() -> None:
    network = attach(odd.viewing())
    expected = last_logits(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(last_logits(network), expected, atol=1e-5, rtol=0)
    network.train()(torch.rand(2, *SHAPE))[-1].sum().backward()


class Rows(nn.Module):
    def __init__(self, view: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.view, self.linear = view, nn.Linear(28 * 28 * 4, 3)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        logits_BK: torch.Tensor = self.linear(self.view(feature))
        return logits_BK


def viewed_by_hand(num_classes: int, *, view: Callable[[torch.Tensor], torch.Tensor]) -> EarlyExitNetwork:
    blocks = [nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)]
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
    return EarlyExitNetwork(blocks, {1: pooled, 2: Rows(view)})


@pytest.mark.training
def test_a_network_built_by_hand_may_view_its_features_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = partial(viewed_by_hand, view=lambda x: x.view(x.shape[0], -1))
    monkeypatch.setitem(named.RECIPES, RECIPE, named.RECIPES[RECIPE].changed(build=build))
    images = stripes(100)
    train(images, run_of(images), tmp_path / "run")


def test_channels_come_last_only_if_the_answers_stay() -> None:
    grey = Preprocessing(height=28, width=28, mode="L", mean=(0.5,), std=(0.5,))
    for view, stays in (
        (lambda x: x.reshape(len(x), -1), True),
        (lambda x: x.view(len(x), -1), False),
        (lambda x: x.as_strided((len(x), 3136), (3136, 1)), False),  # no error, but another order
    ):
        network = choose_layout(viewed_by_hand(3, view=view), grey)
        weight = next(network.blocks[1].parameters())
        assert weight.is_contiguous(memory_format=torch.channels_last) == stays


@pytest.fixture(scope="module")
def dropping() -> EarlyExitNetwork:
    return attach(odd.drops_everything())


def test_everything_random_in_training_is_put_back(dropping: EarlyExitNetwork) -> None:
    network = dropping
    assert odd.drops_in(network) == pytest.approx(odd.DROPS)
    assert any(isinstance(module, nn.RReLU) for module in network.modules())
    for kind in (*odd.DROPS, "RReLU"):
        network.eval()
        exact = last_logits(network)
        for module in network.modules():
            module.training = type(module).__name__ == kind
        assert not torch.equal(last_logits(network), exact), kind


def test_stochastic_depth_leaves_out_samples_or_batches_as_the_model_does(dropping: EarlyExitNetwork) -> None:
    found = [module for module in dropping.modules() if isinstance(module, StochasticDepth)]
    feature = torch.ones(1000, 1, 1, 1)
    for module, p, of_batch in zip(found, (0.2, 0.25), (False, True), strict=True):
        assert module.p == pytest.approx(p)
        kept = torch.cat([module.train()(feature[:1] if of_batch else feature) for _ in range(400)])
        assert float(kept.mean()) == pytest.approx(1.0, abs=0.1)
        assert len(module(feature).unique()) == (1 if of_batch else 2)


def test_statistics_that_average_over_all_batches_go_on_doing_so() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Plain(nn.BatchNorm2d(8, momentum=None)))
        for _ in range(2):
            models[-1].train()(torch.rand(8, *SHAPE))
    whole, cut = models
    network = attach(cut).train()
    for _ in range(3):
        image_BCHW = torch.rand(8, *SHAPE)
        whole(image_BCHW), network(image_BCHW)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(cut.between[0], name), getattr(whole.between[0], name))


@pytest.mark.parametrize("forward", [odd.without_gradients, odd.detached])
def test_a_part_without_gradients_gets_none_in_blocks_either(forward: odd.Forward) -> None:
    model = computing(forward)
    attach(model).train()(torch.rand(4, *SHAPE))[-1].sum().backward()
    got = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert got == {"late", "head"}


def test_a_classifier_is_left_as_it_was() -> None:
    model = Plain().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attach(model)
    assert model.training and model.early[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_auxiliary_classifier_takes_no_cut_away(caplog: pytest.LogCaptureFixture) -> None:
    class Auxiliary(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Linear(8 * 256, 4)

        def forward(self, image_BCHW: torch.Tensor) -> Any:
            early = self.early(image_BCHW)
            aux_BK = self.aux(early.flatten(1))
            main_BK = self.head(self.late(early).flatten(1))
            return main_BK, aux_BK

    with caplog.at_level(logging.WARNING):
        attach(Auxiliary(), share=0.45)
    assert not caplog.messages


def test_an_exit_far_from_where_it_was_asked_for_is_said_with_the_places(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        attach(Plain(), share=0.7)
    (said,) = (record.getMessage() for record in caplog.records)
    assert re.search(r"exit 1 was asked for at 70% .* sits at 46%; it can be at 5%, ", said)
    assert "\n" not in said


def test_an_exit_pools_both_sides_of_a_long_image() -> None:
    network = attach_exits(Plain(), image_shape=(3, 256, 16), exits=(0.3,))
    assert network(torch.zeros(1, 3, 256, 16))[0].shape == (1, 4)


def test_a_pretrained_backbone_gets_a_new_last_layer_for_other_classes() -> None:
    model = Plain(num_classes=10)
    network = attach(model, num_classes=3)
    assert [logits_BK.shape[1] for logits_BK in network(torch.rand(2, *SHAPE))] == [3, 3]
    assert network.origin is not None and network.origin.difference <= 1e-5
    kept = {weight.data_ptr() for weight in network.parameters()}
    old = {weight.data_ptr() for weight in model.head.parameters()}
    assert {weight.data_ptr() for weight in model.parameters()} - kept == old
    assert not old & kept
    check_answers(network, PREPROCESSING, 3)


def test_a_last_convolution_is_replaced_as_well() -> None:
    late = (nn.Conv2d(8, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = attach(nn.Sequential(Plain().early, *late), num_classes=3)
    assert last_logits(network).shape == (3, 3)


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (
            lambda self, image: Plain.forward(self, image) + 1,
            "logits come from add, expected one linear layer",
        ),
        (lambda self, image: Plain.forward(self, image).view(-1, 4), "written for the old number of classes"),
    ],
)
def test_a_last_layer_that_cannot_be_replaced_says_what_to_do(forward: odd.Forward, says: str) -> None:
    with pytest.raises(ConfigError, match=f"{says}.*; replace the last layer in the model yourself"):
        attach(computing(forward), num_classes=3)


def test_a_network_that_mixes_images_is_refused_before_training_and_before_export(tmp_path: Path) -> None:
    network = by_hand(nn.BatchNorm2d(16, track_running_stats=False))
    says = r"the network mixes the images of a batch: blocks.1.2 \(BatchNorm2d\)"
    with pytest.raises(ConfigError, match=says):
        check_answers(network, PREPROCESSING, 4)
    with pytest.raises(ConfigError, match=says):
        export_bundle(
            network, tmp_path / "b", name="b", labels="abcd", preprocessing=PREPROCESSING, split_point=2
        )


def test_graphs_that_mix_images_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "check_answers", lambda *_: None)
    with pytest.raises(BundleError, match="block 2 answers differently for a sample alone"):
        export_bundle(
            by_hand(odd.Centred()),
            tmp_path / "b",
            name="b",
            labels="abcd",
            preprocessing=PREPROCESSING,
            split_point=2,
        )
