"""What a notebook gets from `import offramp`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import offramp
from offramp.errors import BundleError, RequestError
from tests.conftest import FASHION_BUNDLE, SAMPLES
from tests.nodes import first_photo, predict, running_edge


def test_every_name_it_promises_is_there() -> None:
    for name in offramp.__all__:
        assert getattr(offramp, name) is not None
    assert offramp.__version__ == "0.1.0"
    assert {*offramp.__all__, "__version__"} == set(dir(offramp))


def test_a_name_it_does_not_have_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'lod'; it has .*load"):
        offramp.lod  # noqa: B018


def test_nothing_heavy_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, offramp; offramp.load, offramp.__version__; "
        "print(sorted({'torch', 'onnxruntime', 'numpy', 'pydantic', 'scipy'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


async def test_a_classifier_says_what_a_node_says() -> None:
    photo = first_photo(SAMPLES, "shirt")
    found = offramp.load(FASHION_BUNDLE).classify(photo)
    bundle = offramp.load_bundle(FASHION_BUNDLE)
    async with running_edge(bundle, blocks="1-2") as client:
        answer = await predict(client, photo)
    assert (found.label, found.confidence, found.exit_number) == (
        answer["label"],
        answer["confidence"],
        answer["exit"]["number"],
    )
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert max(found.probabilities, key=lambda label: found.probabilities[label]) == found.label


@pytest.mark.parametrize(("theta", "exit_number"), [(0.0, 1), (1.0, 2)])
def test_thetas_may_be_given_by_hand(theta: float, exit_number: int) -> None:
    bundle = offramp.load_bundle(FASHION_BUNDLE)
    found = offramp.Classifier(bundle, thetas=[theta]).classify(first_photo(SAMPLES, "bag"))
    assert found.exit_number == exit_number


def test_what_cannot_be_classified_has_a_name() -> None:
    with pytest.raises(BundleError, match="no bundle in nowhere"):
        offramp.load("nowhere")
    with pytest.raises(RequestError):
        offramp.load(FASHION_BUNDLE).classify(np.zeros(4, np.uint8).tobytes())
