"""Any torch classifier can be cut, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from offramp.errors import ConfigError
from tests import odd_models as odd
from tests.odd_models import SHAPE, Plain, attach, computing, program


def traced(model: nn.Module) -> Any:
    return torch.jit.trace(model.eval(), torch.zeros(1, *SHAPE))  # type: ignore[no-untyped-call]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "noise": (lambda: Plain(odd.Noise()), r"else in training .*: between.0 \(Noise\)"),
    "another value": (lambda: Plain(odd.Doubling()), r"else in training .*: between.0 \(Doubling\)"),
    "weights of attention": (
        lambda: nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(256, 2, 8), nn.Flatten(), nn.Linear(768, 4)),
        r"mixes the images of a batch: 1.self_attn \(MultiheadAttention\)",
    ),
    "own gradient": (lambda: Plain(odd.Rounded()), "gradient of the weight early.* torch.autograd.Function"),
    "spectral norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 3)), Plain()),
        r"changes its buffer 0.parametrizations.weight.0._u in training",
    ),
    "counter": (lambda: Plain(odd.Counting()), r"in place at .*odd_models.py:\d+, `self.seen \+= 1`"),
    "part that stays": (odd.Frozen, r"keeps early.0.1 \(BatchNorm2d\) in inference mode"),
    "no momentum": (lambda: Plain(nn.BatchNorm2d(8, momentum=0.0)), "between.0 has a momentum of 0"),
    "inference mode": (lambda: computing(odd.in_inference_mode), "torch.no_grad instead of torch.inference_mode"),
    "untracked": (
        lambda: Plain(nn.BatchNorm2d(8, track_running_stats=False)),
        r"mixes the images of a batch: between.0 \(BatchNorm2d\)",
    ),
    "centred": (lambda: Plain(odd.Centred()), r"mixes the images of a batch: between.0 \(Centred\)"),
    "random answer": (lambda: computing(odd.always_dropping), r"another answer each time: its own code \(Computing\)"),
    "batch of two": (lambda: computing(odd.of_two), r"fails on 4 images at .*odd_models.py:\d+"),
    "write into a part": (lambda: computing(odd.padded), "in place .*; make a new tensor"),
    "two inputs": (odd.TwoInputs, "needs more than an image: .*'mask_BK'; wrap it"),
    "traced": (lambda: traced(Plain()), "it is TorchScript"),
    "scripted part": (lambda: Plain(torch.jit.script(nn.ReLU())), "its layer between.0 is TorchScript"),
    "fixed program": (lambda: program(Plain().eval(), 1, fixed=True), "is for exactly 1 images; .*dynamic_shapes"),
    "program in training": (lambda: program(Plain(nn.Dropout()).train()), "another answer each time"),
    "state": (lambda: Plain().state_dict(), "is a OrderedDict, expected .*; build the model"),
    "half": (lambda: Plain().half(), "early.0.0.weight of the backbone is torch.float16, .* give model.float"),
    "bfloat16": (lambda: Plain().bfloat16(), "is torch.bfloat16"),
    "meta": (lambda: Plain().to("meta"), r"is on meta; give model.cpu\(\)"),
    "one logit": (lambda: Plain(num_classes=1), r"of shape \(2, 1\), expected one logit for each"),
    "unknown keys": (
        lambda: computing(lambda self, image: {"main": self.feature(image), "aux": image}),
        "returns a dict of main, aux, expected",
    ),
    "no multiplications": (
        lambda: nn.Sequential(nn.AvgPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "no multiplications",
    ),
    "one layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), "1 exit, .* cut at no place"),
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:enable_nested_tensor:UserWarning"
)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_cut_is_refused_in_one_line(kind: str) -> None:
    build, says = REFUSED[kind]
    with pytest.raises(ConfigError, match=says) as refused:
        attach(build())
    assert "\n" not in str(refused.value)


ACCEPTED: dict[str, Callable[[], Any]] = {
    "dict": lambda: computing(lambda self, image: {"logits": Plain.forward(self, image), "aux": image}),
    "1 x 1 at the end": lambda: nn.Sequential(Plain().early, nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1)),
    "weight norm, tied weights and instance norm": lambda: Plain(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
        *[nn.Conv2d(8, 8, 1)] * 2,
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    ),
    "lazy, in data parallel": lambda: nn.DataParallel(
        nn.Sequential(Plain().early, nn.Flatten(), nn.LazyLinear(4))
    ),
    "program": lambda: program(Plain().eval()),
    "decomposed program": lambda: program(Plain().eval()).run_decompositions({}),
}


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning", "ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("kind", ACCEPTED)
def test_unusual_classifiers_are_cut_and_train(kind: str) -> None:
    network = attach(ACCEPTED[kind]())
    assert network.origin is not None
    assert network.origin.difference <= 1e-5
    network.train()(torch.rand(4, *SHAPE))[-1].sum().backward()
