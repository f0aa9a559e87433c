"""Runs the blocks of a bundle; ONNX Runtime serves by default, others are options."""

from offramp.engine.runtime.block import BlockOutput, BlockRunner
from offramp.engine.runtime.load import Runtime, load_blocks, runtimes_at_hand

__all__ = ["BlockOutput", "BlockRunner", "Runtime", "load_blocks", "runtimes_at_hand"]
