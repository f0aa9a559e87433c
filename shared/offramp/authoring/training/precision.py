"""In which precision a training step computes: bfloat16 by Lightning's autocast, but for some layers on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (functional.conv2d, torch.ops.aten.conv2d.default)
_GROUPS = 6  # the place of this argument


class GroupsInFloat32(TorchFunctionMode):
    """Computes convolutions in groups, such as depthwise ones, in float32 where autocast would take bfloat16.

    On a CPU their gradients take two to five times as long in bfloat16, and the other layers' a third to a half.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of every operation."""
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        groups = args[_GROUPS] if len(args) > _GROUPS else kwargs.get("groups", 1)
        if groups == 1 or args[0].device.type != "cpu":
            return func(*args, **kwargs)
        feature, weight, *others = args
        with torch.autocast("cpu", enabled=False):
            found = func(feature.float(), weight.float(), *others, **kwargs)
        return found.to(torch.get_autocast_dtype("cpu"))
