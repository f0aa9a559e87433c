"""Data sets larger than memory: photos are decoded when they are asked for, and everything else stays the same."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.authoring.data import LabelledImages, batches, load_images, reading, split_train
from offramp.authoring.data.photos import PhotoPixels, batch_size_for
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.training.batches import training_batches, validation_batches, workers_for
from offramp.authoring.training.logits import logits_of
from offramp.authoring.training.run import load_network
from offramp.authoring.training.train import Machines, train
from offramp.bundle import Bundle, Preprocessing
from offramp.bundle.provenance import Split
from offramp.cli import progress as shown
from offramp.errors import DataError
from tests.test_training import run_of, stripes, weights

GREY = Preprocessing(height=28, width=28, mode="L", mean=(0.2,), std=(0.33,))
_FIT = (1 << 20) // (120 * 120)  # photos of this size in a cache of 1 MB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of stripes, 28 x 28 grey pixels."""
    directory, images = tmp_path_factory.mktemp("stripes"), stripes(200)
    assert images.labels is not None
    for number, (pixels, index) in enumerate(zip(images.pixels, images.classes, strict=True)):
        file = directory / images.labels[index] / f"{number:03d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.squeeze(2)).save(file, compress_level=1)
    return directory


@pytest.fixture(scope="module")
def in_memory(folder: Path) -> LabelledImages:
    return load_images(folder, "train", GREY)


@pytest.fixture(scope="module")
def streamed(folder: Path) -> LabelledImages:
    """The same images, none of them kept."""
    return load_images(folder, "train", GREY, cache_mb=0)


def test_a_small_set_stays_in_memory(in_memory: LabelledImages, streamed: LabelledImages) -> None:
    assert isinstance(in_memory.pixels, np.ndarray)
    assert isinstance(streamed.pixels, PhotoPixels) and not streamed.pixels.is_cached


def test_photos_are_the_same_from_memory_and_from_files(
    in_memory: LabelledImages, streamed: LabelledImages
) -> None:
    assert streamed.pixels.shape == in_memory.pixels.shape
    assert streamed.fingerprint() == in_memory.fingerprint()
    for index in (7, slice(3, 90, 7), np.array([5, 1, 199])):
        np.testing.assert_array_equal(streamed.pixels[index], in_memory.pixels[index])
    joined = np.concatenate(list(batches(streamed.pixels, 64)))
    np.testing.assert_array_equal(joined, in_memory.pixels[:])


def test_a_part_of_them_is_still_in_the_files(in_memory: LabelledImages, streamed: LabelledImages) -> None:
    split = Split(seed=0, validation=40)
    one, other = split_train(in_memory, split), split_train(streamed, split)
    assert isinstance(other.validation.pixels, PhotoPixels)
    assert one.validation.fingerprint() == other.validation.fingerprint()
    assert one.train.fingerprint() == other.train.fingerprint()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """More photos than fit into a cache of 1 MB, in two classes."""
    for number in range(_FIT + 10):
        file = tmp_path / "large" / "ab"[number % 2] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), number).save(file)
    return tmp_path / "large"


def big(size: int = 120) -> Preprocessing:
    return GREY.model_copy(update={"height": size, "width": size})


def test_photos_within_the_budget_are_never_decoded_again(large: Path) -> None:
    images = load_images(large, "train", big(), cache_mb=1)
    before = images.pixels[:]
    shutil.rmtree(large)
    np.testing.assert_array_equal(images.pixels[:_FIT], before[:_FIT])
    with pytest.raises(DataError, match=r"b/\d+\.png cannot be read"):
        images.pixels[_FIT]


def test_a_full_disk_ends_the_cache_and_nothing_else(
    large: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole, write = load_images(large, "train", big()), os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if offset > 10 * 120 * 120:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(reading, "_IN_MEMORY", 0)
    images = load_images(large, "train", big(), cache_mb=1)
    assert "No space left" in caplog.text
    np.testing.assert_array_equal(images.pixels[:], whole.pixels[:])


def test_a_set_that_fits_into_the_cache_needs_no_workers(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_IN_MEMORY", 0)
    assert workers_for(load_images(large, "train", big(), cache_mb=10)) == 0
    assert workers_for(load_images(large, "train", big(), cache_mb=1)) > 0


def test_batches_are_the_same_however_many_processes_read_them(
    in_memory: LabelledImages, streamed: LabelledImages
) -> None:
    found = []
    for images, workers in ((in_memory, 0), (streamed, 0), (streamed, 2)):
        loader = training_batches(images, 64, 3, 1, workers=workers)
        found.append([(pixels.clone(), classes.clone()) for pixels, classes in loader])
    for others in found[1:]:
        assert len(others) == len(found[0]) == 3
        for (pixels, classes), (other_pixels, other_classes) in zip(found[0], others, strict=True):
            assert torch.equal(pixels, other_pixels) and torch.equal(classes, other_classes)


@pytest.mark.training
def test_training_from_files_gives_the_weights_of_training_from_memory(
    in_memory: LabelledImages, streamed: LabelledImages, tmp_path: Path
) -> None:
    train(in_memory, run_of(in_memory), tmp_path / "memory")
    train(streamed, run_of(streamed), tmp_path / "files", machines=Machines(workers=1))
    assert torch.equal(weights(tmp_path / "memory"), weights(tmp_path / "files"))
    network, recipe = load_network(tmp_path / "files"), run_of(in_memory).recipe
    one, other = (logits_of(network, images, recipe) for images in (in_memory, streamed))
    np.testing.assert_array_equal(one[-1], other[-1])


def test_a_photo_that_vanishes_during_training_is_named(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    images = load_images(copy, "train", GREY, cache_mb=0)
    shutil.rmtree(copy / "rows")
    with pytest.raises(DataError, match=r"rows/\d+\.png cannot be read"):
        list(validation_batches(images, workers=1))


def test_an_evaluation_from_files_answers_as_one_from_memory(tiny_bundle: Bundle, folder: Path) -> None:
    preprocessing = tiny_bundle.manifest.preprocessing
    one, other = (
        load_images(folder, "test", preprocessing, cache_mb=mb).take(np.arange(0, 200, 9)) for mb in (9, 0)
    )
    assert isinstance(other.pixels, PhotoPixels)
    np.testing.assert_array_equal(
        predict_every_exit(tiny_bundle, one.pixels).probabilities,
        predict_every_exit(tiny_bundle, other.pixels).probabilities,
    )


@pytest.mark.parametrize(
    ("shape", "size"), [((9, 28, 28, 1), 1000), ((9, 224, 224, 3), 55), ((9, 4000, 4000, 3), 1)]
)
def test_a_batch_takes_8_mb_whatever_the_size_of_the_images(shape: tuple[int, ...], size: int) -> None:
    assert batch_size_for(shape) == size
    images = LabelledImages(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int64), None, ("", ""))
    wide = replace(images, pixels=np.broadcast_to(images.pixels[:1], shape))
    assert validation_batches(wide).batch_size == size


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 10.0, 31.0, 40.0, 70.0])
    monkeypatch.setattr(shown, "monotonic", lambda: next(times))
    with shown.progress("photos", 50_000) as advance:
        for count in (1000, 9000, 1, 39_999):
            advance(count)
    assert capsys.readouterr().err.splitlines() == ["photos: 10,000 of 50,000, 2.1 minutes left"]
