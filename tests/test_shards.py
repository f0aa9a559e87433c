"""WebDataset's tars: each photo beside a file that names its class."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from offramp.authoring.data import load_images
from offramp.errors import DataError
from tests.test_layouts import TINY, photo, some, write


def shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, files in samples:
            for suffix, data in files.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def sample(number: int, *, suffix: str = "cls", text: str | None = None) -> tuple[str, Mapping[str, bytes]]:
    return f"{number:04d}", {"jpg": photo(number), suffix: (text or str(number % 3)).encode()}


class TestWebDataset:
    def test_one_tar_with_class_numbers(self, tmp_path: Path) -> None:
        shard(tmp_path / "photos.tar", map(sample, range(6)))
        images = load_images(tmp_path / "photos.tar", "test", TINY)
        assert images.labels is None and images.classes.tolist() == [0, 1, 2, 0, 1, 2]
        assert images.pixels[:][:, 0, 0, 0].tolist() == list(range(6))

    def test_shards_of_each_part_with_class_names_in_json(self, tmp_path: Path) -> None:
        for part, counted in {"train-000": 4, "train-001": 2, "test-000": 3}.items():
            texts = ('{"label": "cat"}', '{"cls": "ant", "width": 4}')
            named = [sample(n, suffix="json", text=texts[n % 2]) for n in range(counted)]
            shard(tmp_path / f"{part}.tar", named)
        images = load_images(tmp_path, "train", TINY)
        assert images.labels == ("ant", "cat") and images.classes.tolist() == [1, 0, 1, 0, 1, 0]
        assert images.sources[4] == "train-001.tar/0000.jpg"
        assert len(load_images(tmp_path, "test", TINY)) == 3
        with pytest.raises(DataError, match="shards for test, train, but none for validation"):
            load_images(tmp_path, "validation", TINY)

    @pytest.mark.parametrize(
        ("samples", "says"),
        [
            ([sample(0), sample(1), ("0002", {"jpg": b"x"})], "1 photos have no class, the first: 0002.jpg"),
            ([sample(0), sample(1), ("0002", {"avif": b"x", "cls": b"1"})], r"no photo .*: 0002 \(1 .avif\)"),
            ([sample(0), sample(0)], "has 1 classes"),
            ([sample(0), sample(1, suffix="json", text="[3]")], "0001.json does not name a class"),
        ],
    )
    def test_samples_that_lack_something_are_refused(
        self, tmp_path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]], says: str
    ) -> None:
        shard(tmp_path / "photos.tar", samples)
        with pytest.raises(DataError, match=says):
            load_images(tmp_path / "photos.tar", "train", TINY)

    def test_a_compressed_tar_says_what_to_do(self, tmp_path: Path) -> None:
        data = write(tmp_path / "photos", some("cat", 2) + some("dog", 2))
        with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as archive:
            archive.add(data, "photos")
        with pytest.raises(DataError, match=r"plain \.tar"):
            load_images(tmp_path / "photos.tar.gz", "train", TINY)
