"""EfficientNet-Lite0: the published size, and the published weights."""

from __future__ import annotations

import torch

from offramp.authoring.networks.cost import count_macs
from offramp.authoring.networks.efficientnet_lite import efficientnet_lite0


def test_it_has_the_published_size() -> None:
    network = efficientnet_lite0().eval()
    with torch.no_grad():
        macs, logits = count_macs(network, torch.zeros(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    assert sum(part.numel() for part in network.parameters()) == 4_652_008
    assert 384e6 < macs < 386e6


def test_published_weights_are_taken_in_the_order_of_the_layers() -> None:
    given = efficientnet_lite0(4).state_dict()
    names = ["_conv_stem.weight", *(f"_layer.{number}" for number in range(1, len(given)))]
    published = {name: torch.full_like(part, 7) for name, part in zip(names, given.values(), strict=True)}
    network = efficientnet_lite0(4)
    network.load_state_dict(published)
    assert all((part == 7).all() for part in network.state_dict().values())


def test_its_own_weights_load_back() -> None:
    saved = efficientnet_lite0(4)
    loaded = efficientnet_lite0(4)
    loaded.load_state_dict(saved.state_dict())
    assert all(torch.equal(part, saved.state_dict()[name]) for name, part in loaded.state_dict().items())
