"""What a classifier does in training only, as modules that obey `train()` and `eval()`, and the mark for it.

Most of it can still be seen in a graph exported for inference, such as dropout that is switched off. Stochastic depth
and dropout inside attention leave no trace there, so they are marked before the export by an operator that does nothing
in inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PATH, WHOLE_PATH, ATTENTION = "path", "whole path", "attention"


@torch.library.custom_op(
    "offramp::in_training", mutates_args=(), schema="(Tensor feature, str kind, float p) -> Tensor"
)
def mark(feature: Tensor, kind: str, p: float) -> Tensor:  # noqa: ARG001 - the operator has them - read from the graph
    """Mark a tensor that something happens to with probability `p`, in training only."""
    return feature.clone()


@mark.register_fake
def _(feature: Tensor, kind: str, p: float) -> Tensor:  # noqa: ARG001 - the operator has them
    return torch.empty_like(feature)


class BatchNorm(nn.Module):
    """Batch norm with the weights of the one it replaces; it updates its statistics in training, not in inference."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, parts: Mapping[str, Tensor | None], momentum: float, eps: float) -> None:
        """Take over weight, bias, running mean and variance.

        Args:
            parts: by name; `num_batches_tracked` is needed for a cumulative average only.
            momentum: 0 means a cumulative average over all batches, `momentum=None` in torch.
            eps: added to the variance.
        """
        super().__init__()
        for name in ("weight", "bias"):
            part = parts[name]
            self.register_parameter(name, part if isinstance(part, nn.Parameter) else None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, parts[name])
        self.is_cumulative = not momentum
        if self.is_cumulative:
            tracked = parts.get("num_batches_tracked")
            self.register_buffer("num_batches_tracked", torch.tensor(0) if tracked is None else tracked)
        self.momentum, self.eps = momentum, eps

    def forward(self, feature: Tensor) -> Tensor:
        """Normalise by the statistics of the batch in training, by the running ones in inference."""
        momentum = self.momentum
        if self.training and self.is_cumulative:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked)
        return self.normalise(feature, momentum)

    def normalise(self, feature: Tensor, momentum: float) -> Tensor:
        """Normalise, and in training move the statistics by `momentum`."""
        return functional.batch_norm(
            feature,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            momentum,
            self.eps,
        )


class InstanceNorm(BatchNorm):
    """Instance norm that keeps running statistics and uses them in inference."""

    def normalise(self, feature: Tensor, momentum: float) -> Tensor:
        """Normalise, and in training move the statistics by `momentum`."""
        return functional.instance_norm(
            feature,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            momentum,
            self.eps,
        )


class StochasticDepth(nn.Module):
    """Leaves out a residual path in training, for single samples or for the whole batch, and scales up the others.

    Source: Huang et al. 2016, "Deep networks with stochastic depth".
    """

    def __init__(self, p: float, *, of_batch: bool) -> None:
        super().__init__()
        self.p, self.of_batch = p, of_batch

    def forward(self, feature: Tensor) -> Tensor:
        """Feature -> the feature, or zeros with probability p."""
        if not self.training:
            return feature
        samples = 1 if self.of_batch else feature.shape[0]
        kept = feature.new_empty((samples, *[1] * (feature.ndim - 1))).bernoulli_(1 - self.p)
        return feature * kept / (1 - self.p)

    def extra_repr(self) -> str:
        """As printed."""
        return f"p={self.p}, of_batch={self.of_batch}"


class Attention(nn.Module):
    """Scaled dot-product attention that drops attention weights in training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        """The arguments of torch's function; its own dropout is replaced."""
        query, key, value, *rest = arguments
        options["attn_mask"] = rest[0] if rest else options.get("attn_mask")
        options["dropout_p"] = self.p if self.training else 0.0
        if len(rest) > 2:
            options["is_causal"] = rest[2]
        return functional.scaled_dot_product_attention(query, key, value, **options)
