"""Runs the blocks of a bundle; ONNX Runtime serves by default."""

from offramp.runtime.block import BlockOutput, BlockRunner
from offramp.runtime.onnx import load_blocks

__all__ = ["BlockOutput", "BlockRunner", "load_blocks"]
