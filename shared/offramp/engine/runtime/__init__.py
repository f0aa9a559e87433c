"""Runs the blocks of a bundle: on ONNX Runtime by default, on other runtimes as an option."""

from offramp.engine.runtime.block import BlockOutput, BlockRunner
from offramp.engine.runtime.load import Runtime, load_blocks, runtimes_at_hand

__all__ = ["BlockOutput", "BlockRunner", "Runtime", "load_blocks", "runtimes_at_hand"]
