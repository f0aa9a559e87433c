"""Convolutions in groups are computed in float32 within a step in bfloat16."""

from __future__ import annotations

import torch
from torch.nn import functional

from offramp.authoring.training.precision import GroupsInFloat32

FEATURE = torch.linspace(-1, 1, 2 * 8 * 5 * 5).reshape(2, 8, 5, 5)
DEPTHWISE, PLAIN = torch.full((8, 1, 3, 3), 0.1234567), torch.full((8, 8, 3, 3), 0.1234567)


def test_a_convolution_in_groups_is_exact_until_its_result_is_rounded() -> None:
    exact = functional.conv2d(FEATURE, DEPTHWISE, groups=8)
    with torch.autocast("cpu", torch.bfloat16):
        rounded_inside = functional.conv2d(FEATURE, DEPTHWISE, groups=8)
        with GroupsInFloat32():
            found = functional.conv2d(FEATURE, DEPTHWISE, groups=8)
            in_a_graph = torch.ops.aten.conv2d.default(FEATURE, DEPTHWISE, None, [1, 1], [0, 0], [1, 1], 8)
    assert torch.equal(found, exact.bfloat16())
    assert torch.equal(in_a_graph, found)
    assert not torch.equal(rounded_inside, found)


def test_other_convolutions_and_other_precisions_stay_as_they_are() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected = functional.conv2d(FEATURE, PLAIN)
        with GroupsInFloat32():
            assert torch.equal(functional.conv2d(FEATURE, PLAIN), expected)
    with GroupsInFloat32():
        assert functional.conv2d(FEATURE, DEPTHWISE, groups=8).dtype == torch.float32
