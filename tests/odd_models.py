"""Small classifiers for images of 3 x 16 x 16 pixels, each with one thing that not every classifier has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.authoring.backbones.attach import attach_exits
from offramp.authoring.networks import EarlyExitNetwork

SHAPE = (3, 16, 16)
Forward = Callable[["Plain", Tensor], Any]


def attach(model: Any, *, share: float = 0.3, **options: Any) -> EarlyExitNetwork:
    """The model with one exit, the same each time."""
    torch.manual_seed(0)
    return attach_exits(model, image_shape=SHAPE, exits=(share,), **options)


def conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class Plain(nn.Module):
    """Four convolutions and a linear layer, and whatever is given between the second and the third."""

    def __init__(self, *between: nn.Module, num_classes: int = 4) -> None:
        super().__init__()
        self.early = nn.Sequential(conv(3, 8), conv(8, 8))
        self.between = nn.Sequential(*between)
        self.late = nn.Sequential(conv(8, 16), conv(16, 16), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(256, num_classes)

    def forward(self, image_BCHW: Tensor) -> Any:
        return self.head(self.late(self.between(self.early(image_BCHW))).flatten(1))

    def feature(self, image_BCHW: Tensor) -> Tensor:
        feature: Tensor = self.late(self.between(self.early(image_BCHW)))
        return feature


def computing(forward: Forward) -> nn.Module:
    """A plain network whose forward is given."""
    return type("Computing", (Plain,), {"forward": forward})()  # type: ignore[no-any-return]


def viewing() -> nn.Module:
    """Turns its last feature, (B, 16, 4, 4), into rows in every way there is."""

    def forward(self: Plain, image_BCHW: Tensor) -> Any:
        feature = self.feature(image_BCHW)
        return self.head(torch.stack([view(feature) for view in VIEWS.values()]).mean(dim=0))

    return computing(forward)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "view(-1, n)": lambda x: x.view(-1, 256),
    "view(B, -1)": lambda x: x.view(x.shape[0], -1),
    "view(size, -1)": lambda x: x.view(x.size(0), -1),
    "view_as": lambda x: x.view_as(x.new_empty(x.shape[0], 256)),
    "contiguous().view": lambda x: x.contiguous().view(x.shape[0], -1),
    "split and view": lambda x: torch.cat(
        [part.view(x.shape[0], -1) for part in torch.split(x, 4, dim=1)], dim=1
    ),
    "view and write": lambda x: torch.neg(x).view(x.shape[0], -1).add_(1.0),
    "as_strided": lambda x: torch.as_strided(x, (x.shape[0], 256), (256, 1)),
    "channel shuffle": lambda x: x.view(-1, 4, 4, 4, 4).transpose(1, 2).contiguous().view(x.shape[0], -1),
}


class DropPath(nn.Module):
    """Leaves out samples, as many packages write it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop_prob = p

    def forward(self, feature: Tensor) -> Tensor:
        if not self.training:
            return feature
        kept = 1 - self.drop_prob
        return feature.div(kept) * torch.floor(kept + torch.rand(len(feature), *[1] * (feature.ndim - 1)))


class DropAll(nn.Module):
    """Leaves out the whole batch."""

    def forward(self, feature: Tensor) -> Tensor:
        return feature * torch.empty(1, 1, 1, 1).bernoulli_(0.75) / 0.75 if self.training else feature


class Attending(nn.Module):
    """Attention that drops some of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.15, batch_first=True)

    def forward(self, feature: Tensor) -> Tensor:
        tokens = feature.flatten(2).transpose(1, 2)
        attended: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return feature + attended.transpose(1, 2).reshape(feature.shape)


def drops_everything() -> Plain:
    """Every kind of randomness in training that is put back."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(2), nn.Dropout1d(0.11), nn.Unflatten(2, (16, 16)))
    return Plain(
        *(nn.Dropout(0.1, inplace=True), flat, nn.Dropout2d(0.12), nn.AlphaDropout(0.13)),
        *(
            nn.FeatureAlphaDropout(0.14),
            nn.Conv2d(8, 8, 1),
            nn.RReLU(),
            DropPath(0.2),
            DropAll(),
            Attending(),
        ),
    )


def drops_in(network: EarlyExitNetwork) -> dict[str, float]:
    """Everything random in a network, with its probability."""
    return {
        type(module).__name__: p
        for module in network.modules()
        if isinstance(p := getattr(module, "p", None), float)
    }


DROPS = {
    "Dropout": 0.1, "Dropout1d": 0.11, "Dropout2d": 0.12, "AlphaDropout": 0.13,
    "FeatureAlphaDropout": 0.14, "StochasticDepth": 0.25, "Attention": 0.15,
}  # fmt: skip


class Noise(nn.Module):
    def forward(self, feature: Tensor) -> Tensor:
        return feature + torch.randn_like(feature) if self.training else feature


class Doubling(nn.Module):
    def forward(self, feature: Tensor) -> Tensor:
        return 2 * feature if self.training else feature


class Centred(nn.Module):
    def forward(self, feature: Tensor) -> Tensor:
        return feature - feature.mean(dim=0, keepdim=True)


class Rounded(nn.Module):
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, feature: Tensor) -> Tensor:
            return feature.round()

        @staticmethod
        def backward(_: Any, gradient: Tensor) -> Tensor:
            return gradient

    def forward(self, feature: Tensor) -> Tensor:
        rounded: Tensor = self.Function.apply(10 * feature) / 10  # type: ignore[no-untyped-call]
        return rounded


class Counting(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, feature: Tensor) -> Tensor:
        self.seen += 1
        return feature + 0 * self.seen


class Frozen(Plain):
    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.early.eval()
        return self


class TwoInputs(Plain):
    def forward(self, image_BCHW: Tensor, mask_BK: Tensor) -> Tensor:  # type: ignore[override]
        logits_BK: Tensor = super().forward(image_BCHW) * mask_BK
        return logits_BK


def padded(self: Plain, image_BCHW: Tensor) -> Tensor:
    wide = torch.zeros(image_BCHW.shape[0], 3, 20, 20)
    wide[:, :, 2:18, 2:18] = image_BCHW
    logits_BK: Tensor = Plain.forward(self, wide)
    return logits_BK


def without_gradients(self: Plain, image_BCHW: Tensor) -> Tensor:
    with torch.no_grad():
        feature = self.early(image_BCHW)
    logits_BK: Tensor = self.head(self.late(feature).flatten(1))
    return logits_BK


def in_inference_mode(self: Plain, image_BCHW: Tensor) -> Tensor:
    with torch.inference_mode():
        feature = self.early(image_BCHW)
    logits_BK: Tensor = self.head(self.late(feature).flatten(1))
    return logits_BK


def detached(self: Plain, image_BCHW: Tensor) -> Tensor:
    logits_BK: Tensor = self.head(self.late(self.early(image_BCHW).detach()).flatten(1))
    return logits_BK


def always_dropping(self: Plain, image_BCHW: Tensor) -> Tensor:
    logits_BK: Tensor = self.head(functional.dropout(self.feature(image_BCHW)).flatten(1))
    return logits_BK


def of_two(self: Plain, image_BCHW: Tensor) -> Tensor:
    logits_BK: Tensor = self.head(self.feature(image_BCHW).view(2, -1))
    return logits_BK


def program(model: nn.Module, *images: int, fixed: bool = False) -> torch.export.ExportedProgram:
    """What torch.export makes of a model."""
    samples = None if fixed else ({0: torch.export.Dim("samples", min=1)},)
    return torch.export.export(model, (torch.zeros(*(images or (2,)), *SHAPE),), dynamic_shapes=samples)
