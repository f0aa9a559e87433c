"""Networks: their exits, their cost, and the loss that trains them together."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.cost import network_cost
from offramp.authoring.networks.resnet import resnet
from offramp.authoring.recipes.named import RECIPES, recipe_named
from offramp.authoring.recipes.recipe import Augmentation
from offramp.authoring.training.augment import augment
from offramp.authoring.training.losses import joint_loss, self_taught_loss
from offramp.errors import ConfigError
from tests.tiny import tiny_network


def test_every_exit_gives_logits() -> None:
    logits_by_exit = tiny_network()(torch.rand(5, 3, 8, 8))
    assert [tuple(logits_BK.shape) for logits_BK in logits_by_exit] == [(5, 4)] * 3


def test_a_block_may_go_without_an_eec() -> None:
    network = EarlyExitNetwork([nn.Flatten(), nn.Linear(4, 3)], {2: nn.Identity()})
    assert len(network(torch.rand(2, 1, 2, 2))) == network.num_exits == 1
    assert network.eec_behind(1) is None


@pytest.mark.parametrize(
    ("blocks", "eecs", "says"),
    [
        ([], {}, "at least one block"),
        ([1], {}, "last block, 1, has no EEC"),
        ([1, 1], {2: 1, 3: 1}, "block 3"),
        ([1], {0: 1, 1: 1}, "block 0"),
    ],
)
def test_a_network_that_could_not_answer_is_refused(
    blocks: list[int], eecs: dict[int, int], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        EarlyExitNetwork([nn.Identity() for _ in blocks], {number: nn.Identity() for number in eecs})


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_costs_what_the_formula_says(groups: int) -> None:
    conv = nn.Conv2d(8, 12, 5, stride=2, padding=2, groups=groups)
    network = EarlyExitNetwork([conv], {1: nn.Sequential(nn.Flatten(), nn.Linear(12 * 7 * 7, 10))})
    cost = network_cost(network, (8, 14, 14))
    assert cost.blocks[1] == 8 * 5**2 * 12 * 7**2 // groups
    assert cost.eecs[1] == 12 * 7 * 7 * 10
    assert cost.backbone == cost.blocks[1] + cost.eecs[1]


@pytest.mark.parametrize("name", RECIPES)
def test_leaving_at_an_exit_costs_less_than_reaching_the_next(name: str) -> None:
    recipe = recipe_named(name)
    height, width, channels = recipe.preprocessing.pixel_shape
    cost = network_cost(recipe.build(10), (channels, height, width))
    for number, eec_macs in list(cost.eecs.items())[:-1]:
        assert eec_macs < cost.blocks[number + 1], "even when this exit does not fire"


def macs_by_formula(network: nn.Module, image_BCHW: torch.Tensor) -> int:
    """n_in · s² · n_out · m² of every convolution and n_in · n_out of every linear layer, from what they see."""
    total = 0

    def count(layer: nn.Module, _: object, result: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        total += weight.numel() * (result[0].numel() // weight.shape[0])

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network(image_BCHW)
    return total


@pytest.mark.parametrize("name", [name for name in RECIPES if "vit" not in name])
def test_the_whole_network_costs_what_the_formula_says(name: str) -> None:
    recipe = recipe_named(name)
    height, width, channels = recipe.preprocessing.pixel_shape
    network = recipe.build(10).eval()
    cost = network_cost(network, (channels, height, width))
    counted = macs_by_formula(network, torch.zeros(1, channels, height, width))
    assert sum(cost.blocks.values()) + sum(cost.eecs.values()) == counted


@pytest.mark.parametrize(
    "name", ["b-alexnet-cifar10", "b-resnet20-cifar10", "b-mobilenet-cifar10", "b-vit-cifar10"]
)
def test_the_layers_add_up_to_the_blocks_and_the_eecs(name: str) -> None:
    cost = network_cost(RECIPES[name].build(10), (3, 32, 32))
    for part, totals in (("backbone", cost.blocks), ("eec", cost.eecs)):
        for number, total in totals.items():
            layers = [layer.macs for layer in cost.layers if (layer.block, layer.part) == (number, part)]
            assert len(layers) > 0 and sum(layers) == total


def test_attention_counts_its_products() -> None:
    # 64 tokens of width 128: queries, keys, values; weights; mixture; two linear layers of twice the width.
    cost = network_cost(RECIPES["b-vit-cifar10"].build(10), (3, 32, 32))
    layer = 64 * 128 * 3 * 128 + 2 * 64 * 64 * 128 + 64 * 128 * 128 + 2 * 64 * 128 * 256
    assert cost.blocks[2] == 2 * layer


@pytest.mark.parametrize("depth", [20, 32, 56, 110])
def test_a_resnet_has_the_layers_of_its_name(depth: int) -> None:
    static = RECIPES["resnet20-cifar10"].build(10) if depth == 20 else resnet(depth)
    convolutions = [m for m in static.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == depth


def test_only_the_exits_that_are_asked_for_are_computed() -> None:
    network, image_BCHW = tiny_network().eval(), torch.rand(2, 3, 8, 8)
    network.blocks[2] = nn.Identity()  # would break its EEC
    found = network.logits_at(image_BCHW, [2])
    assert list(found) == [2]


def test_counting_leaves_the_network_as_it_was() -> None:
    network = tiny_network().train()
    network_cost(network, (3, 8, 8))
    assert network.training


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="b-alexnet-cifar10"):
        recipe_named("b-vgg")


def test_the_joint_loss_is_the_weighted_sum_of_all_exits() -> None:
    logits_by_exit = {number: torch.randn(6, 4) for number in (1, 2, 3)}
    weights = {1: 0.5, 2: 0.0, 3: 2.0}
    class_B = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = sum(weights[n] * functional.cross_entropy(logits_by_exit[n], class_B) for n in weights)
    torch.testing.assert_close(joint_loss(logits_by_exit, class_B, weights), expected)


def test_early_exits_may_learn_from_the_deepest_one_and_teach_it_nothing() -> None:
    torch.manual_seed(0)
    logits_by_exit = {number: torch.randn(4, 3, requires_grad=True) for number in (1, 2)}
    class_B, weights = torch.tensor([0, 1, 2, 0]), {1: 0.5, 2: 1.0}
    plain = joint_loss(logits_by_exit, class_B, weights)
    assert torch.equal(self_taught_loss(logits_by_exit, class_B, weights, share=0.0), plain)
    wholly = self_taught_loss(logits_by_exit, class_B, weights, share=1.0)
    early, deepest = torch.autograd.grad(wholly, list(logits_by_exit.values()))
    (labels_alone,) = torch.autograd.grad(
        joint_loss({2: logits_by_exit[2]}, class_B, {2: 1.0}), logits_by_exit[2]
    )
    torch.testing.assert_close(deepest, labels_alone)
    apart = logits_by_exit[1].softmax(1) - logits_by_exit[2].softmax(1)
    assert (early.sign() == apart.detach().sign()).float().mean() > 0.7  # towards the deepest exit's answer


def test_one_weight_for_each_exit() -> None:
    with pytest.raises(ConfigError, match=r"weights are for exits \[1, 2\], logits for exits \[1, 2, 3\]"):
        joint_loss(dict.fromkeys((1, 2, 3), torch.randn(2, 4)), torch.tensor([0, 1]), {1: 1.0, 2: 1.0})


class TestAugmentation:
    image_BCHW = torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))

    def test_none_changes_nothing(self) -> None:
        torch.testing.assert_close(augment(self.image_BCHW, Augmentation()), self.image_BCHW)

    def test_it_follows_the_seed(self) -> None:
        everything = Augmentation(shift=2, mirror=True, blank=4)
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(augment(self.image_BCHW, everything))
        assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
        assert results[0].shape == self.image_BCHW.shape

    def test_a_mirrored_image_is_itself_or_its_mirror(self) -> None:
        found = augment(self.image_BCHW, Augmentation(mirror=True))
        kept = (found == self.image_BCHW).flatten(1).all(dim=1)
        turned = (found == self.image_BCHW.flip(3)).flatten(1).all(dim=1)
        assert bool((kept ^ turned).all()) and 10 < int(turned.sum()) < 54

    def test_a_shifted_image_is_a_window_of_the_padded_one(self) -> None:
        found = augment(self.image_BCHW, Augmentation(shift=1))
        padded = functional.pad(self.image_BCHW, [1] * 4, mode="replicate")
        windows = torch.stack([padded[..., y : y + 12, x : x + 12] for y in range(3) for x in range(3)])
        hits = (windows == found).flatten(2).all(dim=2)
        assert bool((hits.sum(dim=0) == 1).all()) and bool((hits.sum(dim=1) > 0).all())

    def test_a_blanked_square_is_as_large_as_asked(self) -> None:
        found = augment(torch.ones(200, 1, 12, 12), Augmentation(blank=4))
        blanked = (found == 0).flatten(1).sum(dim=1)
        assert int(blanked.max()) == 16 and int(blanked.min()) >= 4
