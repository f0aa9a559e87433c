"""`offramp attach`: from the model that somebody has to a recipe that needs none of its code."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from PIL import Image
from torch import nn

from offramp.authoring.export.weights import Weights, stored
from offramp.authoring.networks.check import check_answers
from offramp.authoring.recipes.named import recipe_named
from offramp.authoring.training.run import load_network, load_run
from offramp.bundle import Bundle, Preprocessing, load_bundle
from offramp.errors import ConfigError
from tests.commands import check_refused, offramp

SIDE = 16
WAYS = {"height": SIDE, "width": SIDE, "mode": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3}
PREPROCESSING = Preprocessing.model_validate({**WAYS, "resize": "shorter_side", "resize_to": 18})


def plain(num_classes: int = 3) -> nn.Module:
    """A chain of convolutions."""
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    first = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(
        first, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    ).eval()


def ten_classes() -> nn.Module:
    """The same for ten classes."""
    return plain(10)


@pytest.fixture
def ways(tmp_path: Path) -> Path:
    """A file that says how photos become pixels."""
    path = tmp_path / "preprocessing.json"
    path.write_text(json.dumps(WAYS))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes in folders whose alphabetical order is not the model's."""
    generator = np.random.default_rng(0)
    for level, name in enumerate(("zebra", "ant", "mole")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 60, (20, 24, 3)) + 80 * level
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def weights(directory: Path, model: nn.Module | None = None) -> Path:
    path = directory / "weights.pth"
    torch.save((model or plain()).state_dict(), path)
    return path


def attached(source: str | Path, out: Path, *options: str | Path) -> nn.Module:
    """Attach exits, and the network that the recipe builds."""
    result = offramp("attach", source, "--out", out, *options)
    assert not result.exit_code, result.output
    assert "exit-2" in result.stdout
    return recipe_named(str(out)).build(3).eval()


def same_answers(network: Any, model: Any) -> bool:
    image = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model(image)
        return torch.allclose(
            network(image)[-1], expected if isinstance(expected, torch.Tensor) else expected[-1], atol=1e-5
        )


def test_weights_with_their_factory(tmp_path: Path, ways: Path) -> None:
    options = ("--factory", "tests.test_attach_command:plain", "--preprocessing", ways)
    network = attached(weights(tmp_path), tmp_path / "recipe", *options)
    assert same_answers(network, plain())
    assert recipe_named(str(tmp_path / "recipe")).is_trained


def test_a_function_that_makes_the_model_and_a_preprocessing_by_name(tmp_path: Path) -> None:
    here = "tests.test_attach_command"
    network = attached(f"{here}:plain", tmp_path / "recipe", "--preprocessing", f"{here}:PREPROCESSING")
    assert same_answers(network, plain())
    assert recipe_named(str(tmp_path / "recipe")).preprocessing == PREPROCESSING


def test_a_program_of_torch_export(tmp_path: Path, ways: Path) -> None:
    samples = torch.export.Dim("samples", min=1)
    program = torch.export.export(plain(), (torch.zeros(2, 3, SIDE, SIDE),), dynamic_shapes=({0: samples},))
    torch.export.save(program, tmp_path / "model.pt2")
    assert same_answers(
        attached(tmp_path / "model.pt2", tmp_path / "recipe", "--preprocessing", ways), plain()
    )


def test_an_onnx_file(tmp_path: Path, ways: Path) -> None:
    image, axes = (torch.zeros(1, 3, SIDE, SIDE),), {"image": {0: "samples"}}
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter that most files at hand come from
        torch.onnx.export(plain(), image, path, dynamo=False, input_names=["image"], dynamic_axes=axes)
    assert same_answers(attached(path, tmp_path / "recipe", "--preprocessing", ways), plain())


def test_a_directory_of_transformers_says_labels_and_preprocessing_itself(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label={0: "zebra", 1: "ant", 2: "mole"},
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor = {
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps({**processor, "do_resize": True}))
    result = offramp("attach", tmp_path / "model", "--out", tmp_path / "recipe", "--exits", "0.5")
    assert not result.exit_code, result.output
    recipe = recipe_named(str(tmp_path / "recipe"))
    assert recipe.backbone_labels == ("zebra", "ant", "mole")
    assert recipe.preprocessing.pixel_shape == (32, 32, 3)


def test_a_recipe_on_disk_goes_to_a_bundle_with_the_labels_of_the_model(
    tmp_path: Path, ways: Path, photos: Path
) -> None:
    names = "zebra,ant,mole"  # the model's order, which is not that of the folders
    recipe, run, out = tmp_path / "recipe", tmp_path / "run", tmp_path / "bundle"
    attached("tests.test_attach_command:plain", recipe, "--preprocessing", ways, "--labels", names)
    result = offramp("train", recipe, "--data", photos, "--out", run, "--regime", "exits", "--epochs", "1")
    assert not result.exit_code, result.output
    assert load_run(run).labels == tuple(names.split(","))
    assert load_run(run).provenance.data.held_out == 24 // 5
    assert same_answers(load_network(run), plain())  # the backbone was frozen
    result = offramp("export", run, "--out", out, "--weights", "float16")
    assert not result.exit_code, result.output
    assert not (result := offramp("calibrate", out, "--data", photos)).exit_code, result.output
    whole = load_bundle(out).manifest
    assert whole.labels == tuple(names.split(","))
    assert whole.provenance is not None
    verbs = [command.split()[1] for command in whole.provenance.commands]
    assert verbs == ["attach", "train", "export", "calibrate"]


def test_a_new_head_learns_the_classes_of_the_data(tmp_path: Path, ways: Path, photos: Path) -> None:
    recipe, run = tmp_path / "recipe", tmp_path / "run"
    attached("tests.test_attach_command:ten_classes", recipe, "--preprocessing", ways, "--new-head")
    before = recipe_named(str(recipe)).build(3)
    result = offramp("train", recipe, "--data", photos, "--out", run, "--regime", "exits", "--epochs", "1")
    assert not result.exit_code, result.output
    after = load_network(run)
    image = torch.rand(2, 3, SIDE, SIDE)
    assert same_answers(deepcopy(after), after)  # as the moving average of the weights needs it
    with torch.no_grad():
        assert after(image)[-1].shape == (2, 3)
        assert torch.equal(before.blocks[0](image), after.blocks[0](image))


def test_a_new_head_may_estimate_a_quantity(tmp_path: Path, ways: Path) -> None:
    options = ("--preprocessing", ways, "--new-head", "--quantity", "weight,grams,0,500,20")
    attached("tests.test_attach_command:plain", tmp_path / "recipe", *options)
    recipe = recipe_named(str(tmp_path / "recipe"))
    assert recipe.task.quantity is not None and recipe.task.quantity.unit == "grams"
    assert recipe.label_smoothing == 0
    check_answers(recipe.build(2), recipe.preprocessing, 0, recipe.task)
    with pytest.raises(ConfigError, match="returns 3 numbers, but a regression needs 2"):
        check_answers(recipe.build(3), recipe.preprocessing, 0, recipe.task)


def test_the_directory_needs_no_other_file_and_notices_another_one(tmp_path: Path, ways: Path) -> None:
    recipe = tmp_path / "recipe"
    attached(
        weights(tmp_path), recipe, "--factory", "tests.test_attach_command:plain", "--preprocessing", ways
    )
    (tmp_path / "weights.pth").unlink()
    assert recipe_named(str(recipe)).build(3).num_exits == 3
    (recipe / "backbone.pt2").write_bytes(b"another")
    with pytest.raises(ConfigError, match=r"backbone\.pt2 is missing, or another file"):
        recipe_named(str(recipe)).build(3)


def test_a_damaged_recipe_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"kind": "torch"}')
    result = offramp("train", tmp_path, "--data", tmp_path, "--out", tmp_path / "run")
    check_refused(result, "is not a recipe of this version: sha256: Field required")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.onnx"], ["nothing.onnx does not exist"]),
        (["{weights}"], ["holds weights only", "--factory"]),
        (
            ["{weights}", "--factory", "tests.test_attach_command:ten_classes"],
            ["do not fit", "size mismatch"],
        ),
        (["{weights}", "--factory", "nowhere:plain"], ["the factory 'nowhere:plain'", "nowhere"]),
        (["{weights}", "--factory", "plain"], ["write module:NAME"]),
        (["{weights}", "--factory", "tests.test_attach_command:SIDE"], ["makes a int", "torch.nn.Module"]),
        (["{ways}"], ["is no model that can be read", ".onnx"]),
        (["{folder}"], ["no config.json"]),
        (["tests.test_attach_command:plain"], ["nothing says how", "--preprocessing"]),
        (["tests.test_attach_command:plain", "--exits", "a,b"], ["--exits is 'a,b'"]),
        (
            ["tests.test_attach_command:plain", "--preprocessing", "gone.json"],
            ["--preprocessing is 'gone.json'"],
        ),
        (["tests.test_attach_command:plain", "--labels", "a,a,b"], ["--labels", "repeats"]),
        (["tests.test_attach_command:plain", "--labels", "a,b,c", "--new-head"], ["leave --labels out"]),
    ],
)
def test_what_cannot_be_attached_is_told_in_one_line(
    arguments: list[str], says: list[str], tmp_path: Path, ways: Path
) -> None:
    (tmp_path / "folder").mkdir()
    places = {"weights": weights(tmp_path), "ways": ways, "folder": tmp_path / "folder"}
    result = offramp("attach", *(text.format(**places) for text in arguments), "--out", tmp_path / "recipe")
    check_refused(result, *says)
    assert not list((tmp_path / "recipe").glob("*"))


def test_a_pickled_model_is_never_loaded(tmp_path: Path, ways: Path) -> None:
    torch.save(plain(), tmp_path / "model.pth")
    options = ("--factory", "tests.test_attach_command:plain", "--preprocessing", ways)
    result = offramp("attach", tmp_path / "model.pth", "--out", tmp_path / "recipe", *options)
    check_refused(result, "holds no plain weights", "state_dict")


@pytest.mark.parametrize(("weights", "smaller"), [("float16", 0.75), ("int8", 0.6)])
def test_weights_in_less_room_change_a_little(weights: Weights, smaller: float, tiny_bundle: Bundle) -> None:
    graph = tiny_bundle.graphs[3]
    less = stored(graph, weights)
    assert len(less) < smaller * len(graph)
    feature = np.random.default_rng(0).random((2, 8, 4, 4), np.float32)
    found, expected = (InferenceSession(each).run(None, {"batch": feature})[0] for each in (less, graph))
    assert 0 < np.abs(found - expected).max() < 0.05


def test_weights_as_they_are_leave_the_graph_alone(tiny_bundle: Bundle) -> None:
    assert stored(tiny_bundle.graphs[1], "float32") == tiny_bundle.graphs[1]
