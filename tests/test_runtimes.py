"""Runtimes behind one interface: the same answers from each, under the same contract."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from edge_node.settings import EdgeSettings
from offramp.authoring.evaluation.predictions import ExitPredictions, predict_every_exit
from offramp.authoring.evaluation.profile import BlockTime, Profile
from offramp.bundle import Bundle, load_bundle
from offramp.cli.profile import profile_table
from offramp.engine.images import decode_image
from offramp.engine.runtime import BlockOutput, Runtime, load_blocks, runtimes_at_hand
from offramp.errors import BundleError, ConfigError
from offramp.install import how_to_install
from tests import commands
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES
from tests.nodes import predict, running_cloud, running_edge
from tests.test_foundations import run_without_torch

SHIPPED = sorted(path.name for path in (ROOT / "models").iterdir() if path.is_dir())

# Largest difference of a confidence from that on ONNX Runtime. bfloat16 keeps 8 bits of a number, and layers in series
# add their errors up: Lite0 has 50. Behind a bottleneck a code may be rounded to the level beside, on a GPU in float32
# too, and what the decoder makes of that differs by more.
_FLOAT32, _FLOAT32_CODES, _BFLOAT16, _BFLOAT16_LITE0, _BFLOAT16_CODES = 1e-4, 0.01, 0.05, 0.1, 0.25


def needs(runtime: Runtime) -> Runtime:
    if runtime not in runtimes_at_hand():
        pytest.skip(f"needs what runtime {runtime} needs: its package, a C++ compiler, or a GPU")
    return runtime


def tolerance(bundle: Bundle, runtime: Runtime) -> float:
    narrow = any(each.levels for each in bundle.manifest.blocks)
    if runtime != "openvino":
        return _FLOAT32_CODES if narrow and runtime == "cuda" else _FLOAT32
    from offramp.engine.runtime.openvino import OpenVinoBlock

    block = load_blocks(bundle, 1, 1, runtime="openvino")[0]
    assert isinstance(block, OpenVinoBlock)
    if block.precision == "f32":
        return _FLOAT32
    if narrow:
        return _BFLOAT16_CODES
    return _BFLOAT16_LITE0 if "lite0" in bundle.manifest.name else _BFLOAT16


@cache
def shipped(name: str) -> tuple[Bundle, NDArray[np.uint8], ExitPredictions]:
    """A bundle, up to a hundred of the shipped photos as it takes them, and what ONNX Runtime says of each."""
    bundle = load_bundle(ROOT / "models" / name)
    grocery = sorted((ROOT / "samples" / "grocery").glob("*/*.jpg"))
    files = grocery if "Milk" in bundle.manifest.labels else sorted(SAMPLES.glob("*/*.png"))[::5]
    photos = np.stack([decode_image(file.read_bytes(), bundle.manifest.preprocessing) for file in files])
    return bundle, photos, predict_every_exit(bundle, photos)


@pytest.mark.parametrize("runtime", ["openvino", "torch", "cuda", "tensorrt"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_runtime_gives_the_same_answers(name: str, runtime: Runtime) -> None:
    bundle, photos, expected = shipped(name)
    if bundle.manifest.precision == "int8" and runtime != "openvino":
        with pytest.raises(ConfigError, match="which is in int8; choose --runtime"):
            load_blocks(bundle, 1, 1, runtime=needs(runtime))
        return
    found = predict_every_exit(bundle, photos, runtime=needs(runtime))
    allowed = tolerance(bundle, runtime)
    assert np.abs(found.confidence - expected.confidence).max() <= allowed
    assert np.abs(found.probabilities - expected.probabilities).max() <= allowed
    # A decision may differ only where θ lies between the two confidences, or close to them.
    for exit, theta in enumerate(bundle.manifest.operating_point.thetas):
        clear = np.abs(expected.confidence[:, exit] - theta) > allowed
        assert clear.any(), "no photo is far enough from θ for this to say anything"
        stops, stopped = (each.confidence[:, exit] >= np.float32(theta) for each in (found, expected))
        assert (stops == stopped)[clear].all()


def test_torch_compiled_gives_the_same_answers() -> None:
    bundle, photos, expected = shipped(FASHION_BUNDLE.name)
    found = predict_every_exit(bundle, photos, runtime=needs("torch-compiled"))
    assert np.abs(found.probabilities - expected.probabilities).max() <= tolerance(bundle, "torch-compiled")


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch", "cuda"])
@pytest.mark.parametrize("name", ["b-alexnet-cifar10", "b-lenet-mnist-narrow"])
def test_a_batch_of_any_size_says_what_its_samples_say_alone(name: str, runtime: Runtime) -> None:
    bundle, photos, _ = shipped(name)
    allowed = tolerance(bundle, needs(runtime))
    batch: NDArray[np.generic] = photos
    for block, described in zip(
        load_blocks(bundle, 1, 99, runtime=runtime), bundle.manifest.blocks, strict=True
    ):
        together = block.run(batch)
        alone = [block.run(batch[n : n + 1]) for n in range(7)]
        assert together.confidence is not None and together.confidence.dtype == np.float32
        assert together.confidence.shape == (len(photos),)
        check_close(together.confidence[:7], [one.confidence for one in alone], allowed)
        if described.feature:
            assert together.feature is not None
            assert together.feature.dtype == described.feature.dtype
            assert together.feature.shape == (len(photos), *described.feature.shape)
            assert together.feature.flags.c_contiguous, "what leaves for the wire is read in order"
            batch = together.feature


def check_close(
    expected: NDArray[np.float32], found: list[NDArray[np.float32] | None], allowed: float
) -> None:
    assert np.abs(expected - np.concatenate([one for one in found if one is not None])).max() <= allowed


@pytest.mark.parametrize("runtime", get_args(Runtime))
def test_threads_that_share_a_block_do_not_mix_up_their_answers(runtime: Runtime) -> None:
    bundle, photos, _ = shipped(FASHION_BUNDLE.name)
    block = load_blocks(bundle, 1, 1, runtime=needs(runtime), workers=4)[0]
    expected = [block.run(photo[np.newaxis]) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: block.run(photos[n : n + 1]), list(range(len(photos))) * 5))
    for n, output in enumerate(found):
        check_same(output, expected[n % len(photos)])


def check_same(found: BlockOutput, expected: BlockOutput) -> None:
    for name in ("feature", "probabilities", "confidence"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6)


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_an_answer_survives_the_next_call(runtime: Runtime) -> None:
    bundle, photos, _ = shipped(FASHION_BUNDLE.name)
    block = load_blocks(bundle, 1, 1, runtime=needs(runtime))[0]
    first = block.run(photos[:1])
    assert first.feature is not None
    kept = first.feature.copy()
    block.run(photos[50:51])
    np.testing.assert_array_equal(first.feature, kept)


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_a_feature_off_the_wire_is_read_only_and_is_taken_all_the_same(runtime: Runtime) -> None:
    bundle, photos, expected = shipped(FASHION_BUNDLE.name)
    feature = load_blocks(bundle, 1, 1)[0].run(photos).feature
    assert feature is not None
    arrived = np.frombuffer(feature.tobytes(), dtype=feature.dtype).reshape(feature.shape)
    output = load_blocks(bundle, 2, 2, runtime=needs(runtime))[0].run(arrived)
    assert output.confidence is not None
    assert np.abs(output.confidence - expected.confidence[:, 1]).max() <= tolerance(bundle, runtime)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_a_graph_that_is_no_graph_is_named(runtime: Runtime) -> None:
    bundle = load_bundle(FASHION_BUNDLE)
    spoilt = Bundle(bundle.directory, bundle.manifest, {**bundle.graphs, 1: b"rubbish"})
    with pytest.raises(BundleError, match=r"block-1\.onnx is not a graph"):
        load_blocks(spoilt, 1, 1, runtime=needs(runtime))


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_a_graph_in_the_wrong_place_is_named(runtime: Runtime) -> None:
    bundle = load_bundle(FASHION_BUNDLE)
    swapped = Bundle(bundle.directory, bundle.manifest, {**bundle.graphs, 1: bundle.graphs[2]})
    with pytest.raises(BundleError, match="but the manifest says"):
        load_blocks(swapped, 1, 1, runtime=needs(runtime))


@pytest.mark.parametrize(("runtime", "extra"), [("torch", "torch"), ("torch-compiled", "torch")])
def test_a_node_without_the_package_names_the_extra(runtime: str, extra: str) -> None:
    arguments = ("edge", str(FASHION_BUNDLE), "--port", "0", "--runtime", runtime)
    result = run_without_torch("from offramp.cli.main import main; main()", *arguments)
    assert result.returncode == 2
    assert how_to_install(extra) in result.stderr and "Traceback" not in result.stderr


def test_an_unknown_runtime_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"--runtime is 'tflite': .*'onnx', 'openvino', 'torch'"):
        EdgeSettings.read([str(FASHION_BUNDLE), "--runtime", "tflite"])


_IMPORTED = """
import sys
from pathlib import Path
from offramp.bundle import load_bundle
from offramp.engine.runtime import load_blocks
load_blocks(load_bundle(Path(sys.argv[1])), 1, 1, runtime="openvino")
assert sys.modules["openvino_telemetry"] is None
"""


def test_openvino_does_not_report_to_anyone_that_it_was_started() -> None:
    needs("openvino")
    result = run_without_torch(_IMPORTED, str(FASHION_BUNDLE))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("runtime", ["openvino", "torch", "cuda", "tensorrt"])
async def test_two_nodes_serve_on_another_runtime(runtime: Runtime) -> None:
    needs(runtime)
    bundle, _, expected = shipped(FASHION_BUNDLE.name)
    files = sorted(SAMPLES.glob("*/*.png"))[::5]
    unsure = int(expected.confidence[:, 0].argmin())
    async with (
        running_cloud(bundle, blocks="1-2", runtime=runtime) as address,
        running_edge(bundle, upstream=address, runtime=runtime) as client,
    ):
        answer = await predict(client, files[unsure].read_bytes())
    assert answer["exit"]["tier"] == "cloud" and not answer["degraded"]
    assert abs(answer["confidence"] - expected.confidence[unsure, 1]) <= tolerance(bundle, runtime)


def offramp(*arguments: str | Path) -> str:
    result = commands.offramp(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_profile_has_every_block_on_every_runtime_asked_for() -> None:
    options = ("--batch", "1,3", "--threads", "1,2", "--rounds", "3", "--runtime", "onnx", "--json")
    found = Profile.model_validate_json(offramp("profile", FASHION_BUNDLE, *options))
    measured = {(time.runtime, time.threads, time.batch, time.block) for time in found.blocks}
    assert measured == {("onnx", t, b, n) for t in (1, 2) for b in (1, 3) for n in (1, 2)}


def test_the_fastest_way_of_each_block_and_of_all_is_marked() -> None:
    times = [
        BlockTime(runtime=runtime, threads=1, batch=1, block=block, ms=ms)
        for runtime, block, ms in (("onnx", 1, 2.5), ("onnx", 2, 4.5), ("torch", 1, 3.5), ("torch", 2, 1.5))
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(profile_table(Profile(bundle="b", cpu="c", cores=1, rounds=1, blocks=tuple(times))))
    lines = {line.split()[3]: line for line in console.export_text().splitlines() if line.startswith("│")}
    marked = {runtime: re.findall(r"([0-9.]+) \*", line) for runtime, line in lines.items()}
    assert marked == {"onnx": ["2.5"], "torch": ["1.5", "5"]}


def test_a_profile_is_a_table_unless_json_is_asked_for() -> None:
    shown = offramp("profile", FASHION_BUNDLE, "--rounds", "2", "--runtime", "onnx", "--threads", "1,2")
    assert shown.count("onnx") == 2 and "block 2" in shown


def profile_of(bundle: Bundle, ms: Callable[[int], float]) -> Profile:
    times = tuple(
        BlockTime(runtime="onnx", threads=1, batch=1, block=block.number, ms=ms(block.number))
        for block in bundle.manifest.blocks
    )
    return Profile(bundle=bundle.manifest.bundle_id, cpu="any", cores=1, rounds=1, blocks=times)


def test_milliseconds_of_an_exit_add_up_over_its_blocks() -> None:
    bundle = load_bundle(ROOT / "models" / "b-alexnet-cifar10")
    assert profile_of(bundle, float).exit_ms(bundle.manifest) == (1, 3, 6)


def test_a_profile_of_another_bundle_or_runtime_is_refused() -> None:
    bundle, other = load_bundle(FASHION_BUNDLE), load_bundle(ROOT / "models" / "b-lenet-mnist")
    with pytest.raises(ConfigError, match="the profile is of bundle"):
        profile_of(bundle, float).exit_ms(other.manifest)
    with pytest.raises(ConfigError, match="lacks blocks on openvino"):
        profile_of(bundle, float).exit_ms(bundle.manifest, runtime="openvino")


@pytest.mark.parametrize("text", ["", "0", "1,,2", "a", "1.5", "-1"])
def test_sizes_that_are_no_numbers_are_refused(text: str) -> None:
    result = commands.offramp("profile", str(FASHION_BUNDLE), "--batch", text)
    assert result.exit_code == 2 and "--batch is" in result.stderr


def test_a_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"bundle": "b"}))
    for file, says in (("p.json", "is not a profile"), ("gone.json", "cannot be read")):
        options = ["--data", str(SAMPLES), "--profile", str(tmp_path / file)]
        result = commands.offramp("calibrate", str(FASHION_BUNDLE), *options)
        assert result.exit_code == 2 and says in result.stderr


def test_no_runtime_keeps_or_reports_how_it_is_used(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from offramp import *; Classifier(load_bundle(Path(sys.argv[1])))"
    variables = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", code, str(FASHION_BUNDLE)]
    subprocess.run(command, check=True, env=variables, timeout=60)
    assert list(tmp_path.rglob("*")) == []
