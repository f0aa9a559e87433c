"""Labelled images from a disk, and the split of the training part."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from offramp.authoring.data import LabelledImages, load_images, split_train
from offramp.bundle import Preprocessing
from offramp.bundle.provenance import Split
from offramp.errors import ConfigError, DataError

GREY = Preprocessing(height=4, width=4, mode="L", mean=(0.0,), std=(1.0,))
COLOUR = Preprocessing(height=6, width=6, mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3)


def idx(values: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def pixels(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 4, 4), dtype=np.uint8)


def classes(count: int) -> NDArray[np.uint8]:
    return (np.arange(count) % 3).astype(np.uint8)


@pytest.fixture
def idx_files(tmp_path: Path) -> Path:
    """Ten training and four test images, one file of them not gzipped."""
    for prefix, count in (("train", 10), ("t10k", 4)):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(count))))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(classes(count)))
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder with train/ and test/, three classes, and a file that is no image."""
    for part, count in (("train", 4), ("test", 2)):
        for label in ("cat", "ant", "bee"):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (6, 6), (number * 40, len(label) * 20, 7))
                image.save(tmp_path / "photos" / part / label / f"{number}.png")
    (tmp_path / "photos" / "train" / "ant" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def zipped(folder: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


class TestIdx:
    def test_both_parts_gzipped_or_not(self, idx_files: Path) -> None:
        train, test = (load_images(idx_files, part, GREY) for part in ("train", "test"))
        np.testing.assert_array_equal(train.pixels[:][..., 0], pixels(10))
        assert train.classes.tolist() == classes(10).tolist() and train.labels is None
        assert len(test) == 4 and test.sources[3] == "test/00003"

    def test_images_are_brought_to_the_networks_size_and_mode(self, idx_files: Path) -> None:
        larger = Preprocessing(height=6, width=5, mode="L", mean=(0.0,), std=(1.0,))
        coloured = Preprocessing(height=4, width=4, mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3)
        assert load_images(idx_files, "train", larger).pixels.shape == (10, 6, 5, 1)
        assert load_images(idx_files, "train", coloured).pixels.shape == (10, 4, 4, 3)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "begins with"),
            (b"\0\0\x0d\3" + b"\0" * 50, "begins with"),
            (idx(classes(10)), "1 dimensions, expected 3"),
            (idx(pixels(10))[:-1], "fetch it again"),
            (idx(pixels(10)) + b"\0", "fetch it again"),
            (b"\0\0\x08\x03\0\0", "fetch it again"),
            (gzip.compress(idx(pixels(10)))[:-9], "cannot be read"),
            (idx(pixels(9)), "9 train images, but 10 labels"),
            (idx(np.zeros((10, 0, 4), np.uint8)), "without pixels"),
        ],
    )
    def test_a_damaged_file_is_named(self, idx_files: Path, content: bytes, says: str) -> None:
        (idx_files / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(DataError, match=says):
            load_images(idx_files, "train", GREY)

    def test_a_missing_file_is_named(self, idx_files: Path) -> None:
        (idx_files / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(DataError, match="t10k-labels"):
            load_images(idx_files, "test", GREY)

    @pytest.mark.parametrize("preprocessing", [GREY, COLOUR])
    def test_no_images_are_refused(self, idx_files: Path, preprocessing: Preprocessing) -> None:
        (idx_files / "train-images-idx3-ubyte.gz").write_bytes(idx(pixels(0)))
        (idx_files / "train-labels-idx1-ubyte").write_bytes(idx(classes(0)))
        with pytest.raises(DataError, match=r"train images of shape \(0, 4, 4\)"):
            load_images(idx_files, "train", preprocessing)

    def test_mnist(self, mnist: Path) -> None:
        preprocessing = Preprocessing(height=28, width=28, mode="L", mean=(0.0,), std=(1.0,))
        train, test = (load_images(mnist, part, preprocessing) for part in ("train", "test"))
        assert (len(train), len(test)) == (60_000, 10_000)
        assert train.classes[:5].tolist() == [5, 0, 4, 1, 9]


class TestImageFolder:
    def test_a_folder_and_its_zip_hold_the_same(self, folder: Path) -> None:
        one, other = (load_images(path, "train", COLOUR) for path in (folder, zipped(folder)))
        assert one.labels == other.labels == ("ant", "bee", "cat")
        assert one.sources == other.sources and len(one) == 12
        assert (
            one.sources[:2] == ("ant/0.png", "ant/1.png")
            and one.classes.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        )
        assert one.fingerprint() == other.fingerprint()

    def test_parts_are_kept_apart(self, folder: Path) -> None:
        assert len(load_images(folder, "test", COLOUR)) == 6

    def test_a_folder_without_parts_is_the_part_that_is_asked_for(self, folder: Path) -> None:
        assert (
            load_images(folder / "test", "train", COLOUR).fingerprint()
            == load_images(folder, "test", COLOUR).fingerprint()
        )

    def test_a_part_that_is_not_there_is_named(self, folder: Path) -> None:
        (folder / "test").rename(folder.parent / "elsewhere")
        with pytest.raises(DataError, match="has train/ but no test/"):
            load_images(folder, "test", COLOUR)

    def test_a_file_that_cannot_be_read_is_named(self, folder: Path) -> None:
        (folder / "train" / "bee" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
        with pytest.raises(DataError, match=r"bee.1\.png"):
            load_images(folder, "train", COLOUR)

    def test_files_that_cannot_be_read_are_counted_and_the_first_is_named(self, folder: Path) -> None:
        for name in ("1.png", "2.png"):
            (folder / "train" / "cat" / name).write_bytes(b"no photo")
        with pytest.raises(
            DataError, match=r"2 of \d+ files cannot be read, the first: .*1\.png.*--skip-unreadable"
        ):
            load_images(folder, "train", COLOUR)

    def test_or_they_are_skipped_and_each_is_named_in_the_log(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = load_images(folder, "train", COLOUR)
        (folder / "train" / "cat" / "1.png").write_bytes(b"no photo")
        rest = load_images(folder, "train", COLOUR, skip_unreadable=True)
        assert set(whole.sources) - set(rest.sources) == {"cat/1.png"}
        assert len(rest) == len(rest.classes) == len(rest.pixels) == len(whole) - 1
        assert "1.png" in caplog.text

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("into", [0, 50])  # its header, its contents
    def test_a_damaged_file_within_a_zip_is_named(self, folder: Path, compression: int, into: int) -> None:
        path = zipped(folder, compression)
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("train/cat/2.png")
        data = bytearray(path.read_bytes())
        data[member.header_offset + into] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"photos\.zip/train/cat/2\.png cannot be read"):
            load_images(path, "train", COLOUR)

    def test_two_classes_are_enough(self, folder: Path) -> None:
        (folder / "test" / "bee").rename(folder.parent / "elsewhere")
        assert load_images(folder, "test", COLOUR).labels == ("ant", "cat")

    def test_one_class_is_too_few(self, folder: Path) -> None:
        with pytest.raises(DataError, match="0 sub-folders with images"):
            load_images(folder / "test" / "ant", "test", COLOUR)

    @pytest.mark.parametrize("name", ["nowhere", "file"])
    def test_nothing_there(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("no zip")
        with pytest.raises(DataError, match=name):
            load_images(tmp_path / name, "train", COLOUR)


class TestLabelledImages:
    def images(self) -> LabelledImages:
        return LabelledImages(
            pixels(6)[..., np.newaxis], np.array([0, 1, 2, 0, 1, 2]), ("a", "b", "c"), tuple("uvwxyz")
        )

    def test_classes_follow_the_bundles_order_of_labels(self) -> None:
        assert self.images().classes_as(("c", "b", "x", "a")).tolist() == [3, 1, 0, 3, 1, 0]

    def test_a_class_the_bundle_does_not_know_is_named(self) -> None:
        with pytest.raises(DataError, match="class 'c'"):
            self.images().classes_as(("a", "b"))

    def test_numbers_are_taken_as_they_are_within_the_bundles_range(self) -> None:
        numbered = LabelledImages(pixels(2)[..., np.newaxis], np.array([0, 7]), None, ("a", "b"))
        assert numbered.classes_as(tuple("abcdefgh")).tolist() == [0, 7]
        with pytest.raises(DataError, match="class 7"):
            numbered.classes_as(tuple("abcdefg"))

    def test_one_bit_changes_the_fingerprint(self) -> None:
        images, other = self.images(), self.images()
        other.pixels[:][3, 2, 1] ^= 1
        assert images.fingerprint() == self.images().fingerprint() != other.fingerprint()

    def test_one_class_changes_the_fingerprint(self) -> None:
        other = self.images()
        other.classes[5] = 0
        assert other.fingerprint() != self.images().fingerprint()

    def test_taken_samples_keep_their_class_and_source(self) -> None:
        taken = self.images().take(np.array([4, 0]))
        assert taken.classes.tolist() == [1, 0] and taken.sources == ("y", "u")


class TestSplit:
    def images(self, count: int = 1000) -> LabelledImages:
        sources = tuple(str(number) for number in range(count))
        return LabelledImages(np.zeros((count, 1, 1, 1), np.uint8), np.zeros(count, np.int64), None, sources)

    def test_every_sample_is_on_one_side(self) -> None:
        parts = split_train(self.images(), Split(seed=0, validation=100))
        assert len(parts.validation) == 100
        assert sorted(parts.train.sources + parts.validation.sources) == sorted(self.images().sources)

    def test_the_same_seed_holds_out_the_same_samples_for_ever(self) -> None:
        parts = split_train(self.images(), Split(seed=0, validation=5))
        assert parts.validation.sources == ("87", "392", "404", "923", "942")

    def test_another_seed_holds_out_others(self) -> None:
        one, other = (split_train(self.images(), Split(seed=s, validation=100)) for s in (0, 1))
        assert one.validation.sources != other.validation.sources

    def test_holding_out_everything_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="only 10; hold out fewer, for example --validation 2"):
            split_train(self.images(10), Split(seed=0, validation=10))
