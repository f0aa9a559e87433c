"""What cutting a network into blocks costs, and what other ways to call ONNX Runtime and OpenVINO would gain.

    python -m benchmarks.sessions models/b-alexnet-cifar10-int8 models/b-resnet56-cifar10-int8

One sample on one thread that leaves nowhere, each way in turn, round after round. The samples are noise: no way takes a
different time for them. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import compose, utils
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from benchmarks.gallery.page import Sheet
from benchmarks.serving.backbone import backbone_of
from benchmarks.serving.cores import one_core, pinned
from benchmarks.serving.page import machine
from offramp.bundle import Bundle, load_bundle
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.engine.runtime import load_blocks

Way = Callable[[NDArray[Any]], object]
_LIMIT = "backbone in one piece"
_QUEUE = "OpenVINO's own queue, one session with every exit, between two answers"
_IN_FLIGHT = 2  # jobs of OpenVINO's queue
_QUEUED = 8  # samples that go through it together


class Sessions(Command):
    """Time the blocks of bundles in several ways, beside their backbone in one piece.

    Example: python -m benchmarks.sessions models/b-alexnet-cifar10-int8
    """

    bundles: CliPositionalArg[list[Path]] = Field(description="directories of bundles")
    rounds: int = Field(default=20, ge=1, description="turns of each way, of 16 samples each")
    page: Path | None = Field(default=None, description="also write this Markdown file")

    def execute(self) -> None:
        """Run every way in turn, and print the table."""
        rows = []
        with progress("rounds", self.rounds * len(self.bundles)) as advance, pinned(one_core()):
            for path in self.bundles:
                bundle = load_bundle(path)
                found = _medians(_ways(bundle), _samples(bundle), self.rounds, advance)
                rows += [
                    (bundle.manifest.name, way, f"{us:.0f}", f"{us / found[_LIMIT]:.2f}")
                    for way, us in found.items()
                ]
        sheet = Sheet("One sample that leaves nowhere", ("bundle", "way", "µs", "of the backbone"), rows)
        text = (
            f"# Sessions\n\nMade by `python -m benchmarks.sessions`.\n\n{machine()}\n\n{sheet.as_markdown()}"
        )
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")


def _medians(
    ways: Mapping[str, Way], samples: NDArray[Any], rounds: int, advance: Callable[[int], None]
) -> dict[str, float]:
    """Microseconds of each way, which runs some samples in a row whenever its turn comes."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            for sample in samples:
                begun = time.perf_counter()
                run(sample[np.newaxis])
                taken[name].append((time.perf_counter() - begun) / (_QUEUED if name == _QUEUE else 1))
        advance(1)
    return {name: 1e6 * median(times) for name, times in taken.items()}


def _ways(bundle: Bundle) -> dict[str, Way]:
    graphs = [onnx.load_from_string(bundle.graphs[block.number]) for block in bundle.manifest.blocks]
    handed_on = [["feature"]] * (len(graphs) - 1) + [["probabilities", "confidence"]]
    bare = [
        utils.Extractor(graph).extract_model([graph.graph.input[0].name], outputs)
        for graph, outputs in zip(graphs, handed_on, strict=True)
    ]
    ways = {
        _LIMIT: _called([backbone_of(bundle)]),
        "blocks without their exits": _called(bare),
        "one session, with every exit": _called([_whole(graphs)]),
        "blocks with their exits": _called(graphs),
        "the same, bound to memory beforehand": _bound(graphs, _samples(bundle)[:1]),
        "the same, as a node calls them": _served(bundle, "onnx"),
    }
    if bundle.manifest.precision == "float32":
        ways["blocks with their exits, in float16"] = _called(list(map(_in_float16, graphs)))
        ways["OpenVINO, as a node calls them"] = _served(bundle, "openvino")
        ways[_QUEUE] = _queued(bundle)
    return ways


def _in_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return half


def _samples(bundle: Bundle) -> NDArray[np.uint8]:
    first = bundle.manifest.blocks[0].input
    return np.random.default_rng(0).integers(0, 256, (16, *first.shape), dtype=np.uint8)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _called(models: list[onnx.ModelProto]) -> Way:
    """Sessions that are called one after the other, each with the feature of the one before."""
    sessions = [_session(model) for model in models]
    calls = [
        (session, session.get_inputs()[0].name, [output.name for output in session.get_outputs()])
        for session in sessions
    ]

    def run(sample: NDArray[Any]) -> None:
        for session, given, names in calls:
            found = dict(zip(names, session.run(names, {given: sample}), strict=True))
            sample = found.get("feature", sample)

    return run


def _bound(models: list[onnx.ModelProto], sample: NDArray[Any]) -> Way:
    """Sessions whose inputs and outputs have their memory once and for all; a feature is the next one's input."""
    value = first = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(sample))
    bindings = []
    for model in models:
        session = _session(model)
        names = [output.name for output in session.get_outputs()]
        binding = session.io_binding()
        binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
        shaped = session.run(names, {session.get_inputs()[0].name: value.numpy()})
        for name, output in zip(names, shaped, strict=True):
            own = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(output))
            binding.bind_ortvalue_output(name, own)
            value = own if name == "feature" else value
        bindings.append((session, binding))

    def run(sample: NDArray[Any]) -> None:
        first.update_inplace(sample)
        for session, binding in bindings:
            session.run_with_iobinding(binding)

    return run


def _served(bundle: Bundle, runtime: Any) -> Way:
    blocks = load_blocks(bundle, 1, len(bundle.manifest.blocks), runtime=runtime)

    def run(sample: NDArray[Any]) -> None:
        for block in blocks:
            found = block.run(sample)
            sample = sample if found.feature is None else found.feature

    return run


def _queued(bundle: Bundle) -> Way:
    """OpenVINO's own queue over all blocks in one model: several samples, and waits for all of them."""
    import openvino

    graphs = [onnx.load_from_string(bundle.graphs[block.number]) for block in bundle.manifest.blocks]
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(_whole(graphs).SerializeToString()), "CPU", {"INFERENCE_NUM_THREADS": 1}
    )
    queue = openvino.AsyncInferQueue(compiled, _IN_FLIGHT)

    def run(sample: NDArray[Any]) -> None:
        for _ in range(_QUEUED):
            queue.start_async([sample])
        queue.wait_all()

    return run


def _whole(graphs: list[onnx.ModelProto]) -> onnx.ModelProto:
    """All blocks and exits as one graph."""
    whole = compose.add_prefix(graphs[0], "block1_")
    for number, graph in enumerate(graphs[1:], start=2):
        part = compose.add_prefix(graph, f"block{number}_")
        joint = [(f"block{number - 1}_feature", part.graph.input[0].name)]
        whole = compose.merge_models(whole, part, io_map=joint)
    return whole


if __name__ == "__main__":
    run_command(Sessions, sys.argv[1:], program="python -m benchmarks.sessions")
