"""A part of an ONNX graph as a torch module that cannot be trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from offramp.authoring.backbones.onnx.run import session_of
from offramp.errors import ConfigError


class OnnxPart(nn.Module):
    """Runs a part of an ONNX graph on ONNX Runtime's CPU provider, without gradients. It has no weights to train.

    model: the `onnx.ModelProto`, with one input and one output. macs: multiplications for one sample, by layer.
    """

    def __init__(self, model: Any, macs: Mapping[str, int]) -> None:
        super().__init__()
        self.model = model
        self.macs = dict(macs)
        self._session: onnxruntime.InferenceSession | None = None

    def forward(self, feature: Tensor) -> Tensor:
        """Feature -> feature, both float32 with the samples first.

        Raises:
            ConfigError: a gradient is asked for.
        """
        if torch.is_grad_enabled() and feature.requires_grad:
            raise ConfigError(
                "a gradient cannot pass through a block from an ONNX file; train the exits behind it, with the "
                "backbone frozen"
            )
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self._session = session_of(self.model, options=options)
        batch = feature.detach().float().cpu().contiguous().numpy()
        (result,) = self._session.run(None, {self.model.graph.input[0].name: batch})
        return torch.from_numpy(result).to(feature.device)

    def get_extra_state(self) -> Tensor:
        """SHA-256 of the graph, uint8 (32,), saved instead of weights: a checkpoint fits no other file."""
        digest = hashlib.sha256(self.model.SerializeToString(deterministic=True)).digest()
        return torch.tensor(list(digest), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check that the graph is the one that a checkpoint was made with.

        Raises:
            ConfigError: it is another one.
        """
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise ConfigError(
                "the ONNX file is no longer the one that this network's exits were trained on, or it is cut at other "
                "places now; put the old file back, or train again"
            )

    def __getstate__(self) -> dict[str, Any]:
        # A session can be neither copied nor sent to another process; it is made again when needed.
        return {**self.__dict__, "_session": None}


def onnx_parts(block: nn.Module) -> list[OnnxPart]:
    """The parts of an ONNX file that a block is made of, one after the other; none if it is an ordinary module."""
    if isinstance(block, nn.Sequential):
        parts = [part for part in block if isinstance(part, OnnxPart)]
        return parts if len(parts) == len(block) else []
    return [block] if isinstance(block, OnnxPart) else []
