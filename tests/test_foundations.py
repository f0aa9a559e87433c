"""What the project promises about itself: no torch in serving, fresh generated code, bundles that ship."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from offramp.bundle import load_bundle
from offramp.install import how_to_install
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES

# Stands in for an environment without torch; CI serves in a real one.
_WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "lightning", "onnx", "onnxscript", "torchmetrics"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_without_torch(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH + code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_both_nodes_import_without_torch() -> None:
    result = run_without_torch("import offramp.engine.tier, edge_node.app, cloud_node.server, offramp.cli")
    assert result.returncode == 0, result.stderr


def test_a_photo_is_classified_without_torch() -> None:
    photo = str(min((SAMPLES / "trouser").iterdir()))
    result = run_without_torch(
        "from offramp.cli.main import main; main()", "predict", str(FASHION_BUNDLE), photo
    )
    assert result.returncode == 0, result.stderr
    assert "trouser" in result.stdout


def test_training_without_torch_names_the_extra_to_install(tmp_path: Path) -> None:
    result = run_without_torch(
        "from offramp.cli.main import main; main()",
        *("train", "b-lenet-fashion", "--data", str(SAMPLES), "--out", str(tmp_path / "run")),
    )
    assert result.returncode == 2
    assert how_to_install("train") in result.stderr and "Traceback" not in result.stderr


def test_the_generated_messages_are_fresh(tmp_path: Path) -> None:
    proto = "offramp/wire/v1/wire.proto"
    arguments = [
        "-I",
        "protos",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
        f"--grpc_python_out={tmp_path}",
    ]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments, f"protos/{proto}"],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    for fresh in (tmp_path / "offramp/wire/v1").iterdir():
        committed = ROOT / "shared/offramp/wire/v1" / fresh.name
        assert committed.read_text() == fresh.read_text(), f"{fresh.name} is stale; run `make protos`"


@pytest.mark.parametrize("bundle", sorted(path.name for path in (ROOT / "models").iterdir() if path.is_dir()))
def test_every_bundle_that_ships_is_sound_and_says_what_made_it(bundle: str) -> None:
    manifest = load_bundle(ROOT / "models" / bundle).manifest
    assert manifest.name == bundle
    assert manifest.provenance is not None
    attached = ["attach"] if bundle.startswith("b-lite0-grocery") else []
    verbs = [command.split()[1] for command in manifest.provenance.commands]
    narrowed = ["compress"] if bundle.endswith("-narrow") else []
    quantised = ["quantise"] if manifest.precision == "int8" else []
    assert verbs == [*attached, "train", *narrowed, "export", *quantised, "calibrate"]
    assert all(point.measured is not None for point in manifest.operating_points)


def test_the_shipped_photos_are_fifty_of_each_class() -> None:
    labels = load_bundle(FASHION_BUNDLE).manifest.labels
    assert {folder.name for folder in SAMPLES.iterdir()} == set(labels)
    assert all(len(list(folder.glob("*.png"))) == 50 for folder in SAMPLES.iterdir())


def test_every_command_is_listed_without_any_extra() -> None:
    # A cloud node's image has nothing of the edge's, yet the same `offramp`.
    extras = "uvicorn fastapi starlette orjson python_multipart grpc_health grpc_reflection nicegui torch lightning"
    extras += " onnx onnx2fx openvino ray matplotlib jinja2 psutil opentelemetry.sdk"
    absent = f"import sys; sys.modules.update(dict.fromkeys({extras.split()}))"
    program = f"{absent}; from offramp.cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    for command in ("edge", "cloud", "dashboard", "train", "profile", "up"):
        assert f" {command} " in result.stdout
