"""The runtimes, chosen by name; a runtime is imported only when it is chosen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Literal, Protocol, get_args

from offramp.bundle import Bundle
from offramp.bundle.manifest import Block
from offramp.engine.runtime.block import BlockRunner
from offramp.errors import ConfigError
from offramp.install import how_to_install

Runtime = Literal["onnx", "openvino", "torch", "torch-compiled", "cuda", "tensorrt"]

_TORCH = ("torch", "onnx", "onnx2fx")
_PACKAGES: dict[Runtime, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": _TORCH,
    "torch-compiled": _TORCH,
    "cuda": ("onnxruntime",),
    "tensorrt": ("onnxruntime",),
}
_WITH_INT8: tuple[Runtime, ...] = ("onnx", "openvino")


class _Loader(Protocol):
    def __call__(self, block: Block, bundle: Bundle, *, threads: int, workers: int) -> BlockRunner: ...


def load_blocks(
    bundle: Bundle, start: int, stop: int, *, runtime: Runtime = "onnx", threads: int = 1, workers: int = 1
) -> Sequence[BlockRunner]:
    """Load blocks `start` to `stop`, both included.

    Args:
        bundle: verified.
        start: number of the first block.
        stop: number of the last one.
        runtime: library that runs them. onnx: ONNX Runtime, in the bundle's precision. openvino: in int8 if the bundle
            is, otherwise in bfloat16 if the CPU supports it, or in float32. torch: eager, in float32, on CUDA if there
            is a device. torch-compiled: the same through `torch.compile`. cuda, tensorrt: ONNX Runtime's providers for
            NVIDIA GPUs, in float32.
        threads: threads that share one call. More than one pays off only for large blocks and few clients.
        workers: how many threads may call a block at the same time.

    Raises:
        ConfigError: the runtime's package, its compiler or its provider is missing, or it cannot run the bundle's
            precision.
        BundleError: the runtime refuses a graph, or the graph's inputs or outputs differ from the manifest.
    """
    if bundle.manifest.precision == "int8" and runtime not in _WITH_INT8:
        raise ConfigError(
            f"runtime {runtime} cannot run bundle '{bundle.manifest.bundle_id}', which is in int8; choose --runtime "
            "onnx or openvino, or the bundle in float32 that it was made from"
        )
    load = _loader(runtime)
    blocks = bundle.manifest.blocks[start - 1 : stop]
    return [load(block, bundle, threads=threads, workers=workers) for block in blocks]


def runtimes_at_hand() -> tuple[Runtime, ...]:
    """The runtimes whose packages are installed here, with the compiler or the provider that some need."""
    found = [name for name in get_args(Runtime) if all(find_spec(package) for package in _PACKAGES[name])]
    return tuple(name for name in found if _has_what_else_is_needed(name))


def _has_what_else_is_needed(runtime: Runtime) -> bool:
    match runtime:
        case "torch-compiled":
            return has_compiler()
        case "cuda" | "tensorrt":
            from offramp.engine.runtime.onnx_gpu import PROVIDERS

            return PROVIDERS[runtime].is_at_hand
        case _:
            return True


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which `torch.compile` needs on a CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++"))


def _loader(runtime: Runtime) -> _Loader:
    try:
        match runtime:
            case "onnx":
                from offramp.engine.runtime.onnx import OnnxBlock

                return OnnxBlock
            case "openvino":
                from offramp.engine.runtime.openvino import OpenVinoBlock

                return OpenVinoBlock
            case "cuda" | "tensorrt":
                from offramp.engine.runtime.onnx_gpu import PROVIDERS, GpuBlock

                return partial(GpuBlock, provider=PROVIDERS[runtime])
            case "torch" | "torch-compiled":
                from offramp.engine.runtime.torch import TorchBlock

                if runtime == "torch":
                    return TorchBlock
                if not has_compiler():
                    raise ConfigError(
                        "runtime torch-compiled found no C++ compiler; install g++, or choose --runtime torch"
                    )
                return partial(TorchBlock, compiled=True)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _PACKAGES[runtime]:
            raise
        extra = runtime.partition("-")[0]
        raise ConfigError(
            f"runtime {runtime} needs {missing}, which is not installed; run: {how_to_install(extra)}"
        ) from error
