"""Fixtures that several test files share: small bundles made on the fly, and the paths of real data."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from offramp.authoring.export import export_bundle
from offramp.authoring.networks import EarlyExitNetwork
from offramp.bundle import Bundle, Preprocessing, load_bundle, write_manifest
from offramp.bundle.manifest import Manifest
from offramp.serving.offload import streams
from tests.tiny import tiny_network
from tests.upstreams import Upstream

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples" / "fashion-mnist"
FASHION_BUNDLE = ROOT / "models" / "b-lenet-fashion"

# The same examples in every run, and no deadline, because a slow machine is not a bug.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Networks this small gain nothing from threads, which wait for each other when all cores are busy.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

_DATA = Path(os.environ.get("OFFRAMP_DATA", ROOT.parent / "shared" / "data"))
_FASHION = Path("/usr/share/datasets/fashion-mnist")


def _needed(path: Path, what: str) -> Path:
    if not path.exists():
        pytest.skip(f"needs {what}; put it there or set OFFRAMP_DATA")
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Trace no test that trains or exports: coverage of authoring is not measured, and it would take twice as long."""
    trace, trace_threads = sys.gettrace(), threading.gettrace()
    if trace is None or not _is_about_authoring(item):
        return (yield)
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(trace)
        threading.settrace(trace_threads)


def _is_about_authoring(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    used = {getattr(each, "__module__", None) or "" for each in vars(item.module).values()}
    return item.get_closest_marker("training") is not None or any(
        name.startswith("offramp.authoring") for name in used
    )


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Undo what a command that ran in this process did to logging: its handler writes to a stream that is gone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def mnist() -> Path:
    """MNIST's four IDX files."""
    return _needed(_DATA / "mnist", f"MNIST in {_DATA.name}/mnist")


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """CIFAR-10 as a zip of an image folder."""
    return _needed(_DATA / "cifar10.zip", f"CIFAR-10 in {_DATA.name}/cifar10.zip")


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """Fashion-MNIST, as the Debian package dataset-fashion-mnist installs it."""
    return _needed(_FASHION, "the Debian package dataset-fashion-mnist")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Three blocks, each with an exit; random weights, 8 x 8 colour pixels, 4 classes, split at block 2.

    Its default operating point stops some samples at every exit.
    """
    directory = tmp_path_factory.mktemp("bundles") / "tiny"
    torch.manual_seed(0)
    bundle = export_bundle(
        tiny_network(),
        directory,
        name="tiny",
        labels=("ant", "bee", "cat", "dog"),
        preprocessing=Preprocessing(height=8, width=8, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3),
        split_point=2,
    )
    return with_thetas(bundle, (0.81, 0.43))


def with_thetas(bundle: Bundle, thetas: tuple[float, ...]) -> Bundle:
    """The same bundle on disk with other thetas at its default operating point."""
    point = bundle.manifest.operating_point.model_copy(update={"thetas": thetas})
    changed = bundle.manifest.model_copy(update={"operating_points": (point,)})
    write_manifest(bundle.directory, Manifest.model_validate(changed.model_dump()))
    return load_bundle(bundle.directory)


@pytest.fixture(scope="session")
def tiny_pixels() -> NDArray[np.uint8]:
    """Forty noise images for the tiny bundle, some bright and some dark, so that exits differ in confidence."""
    generator = np.random.default_rng(1)
    ceiling = generator.integers(20, 256, (40, 1, 1, 1))
    return (generator.random((40, 8, 8, 3)) * ceiling).astype(np.uint8)


@pytest.fixture(scope="session")
def exitless_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny network with its last exit only: the edge has nothing to fall back on."""
    network = tiny_network()
    last = network.eec_behind(3)
    assert last is not None
    return export_bundle(
        EarlyExitNetwork(list(network.blocks), {3: last}),
        tmp_path_factory.mktemp("bundles") / "exitless",
        name="exitless",
        labels=("ant", "bee", "cat", "dog"),
        preprocessing=Preprocessing(height=8, width=8, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3),
        split_point=2,
    )


@pytest.fixture(params=[False, True], ids=["calls", "streams"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have requests come in calls of their own, and once more one after another in the same call."""
    monkeypatch.setattr(Upstream, "takes_streams", request.param)
    monkeypatch.setattr(streams, "_MAX_AGE_S", math.inf)  # otherwise only those that come often do
