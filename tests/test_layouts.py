"""How people lay out their photos: no photo is lost in silence, whatever the folders look like."""

from __future__ import annotations

import io
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.authoring.data import LabelledImages, load_images, load_unlabelled, open_data
from offramp.authoring.data.container import open_container
from offramp.authoring.data.layout import layout_of
from offramp.authoring.data.suffixes import Sorted
from offramp.bundle import Preprocessing
from offramp.errors import DataError

TINY = Preprocessing(height=4, width=4, mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3)
_FORMATS = {".bmp": "BMP", ".webp": "WEBP", ".png": "PNG", ".gif": "GIF"}


def photo(shade: int, suffix: str = ".jpg") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade % 256,) * 3).save(file, _FORMATS.get(suffix.lower(), "JPEG"))
    return file.getvalue()


def write(folder: Path, names: Iterable[str]) -> Path:
    """A folder with a small photo of its own under each name; a name that ends with `/` is an empty folder."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir(exist_ok=True)
        else:
            (folder / name).write_bytes(photo(number, Path(name).suffix))
    return folder


def zipped(folder: Path, *, inside: str = "", slash: str = "/") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.writestr(
                    inside + file.relative_to(folder).as_posix().replace("/", slash), file.read_bytes()
                )
    return path


def tarred(folder: Path, *, inside: str = "./") -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, inside)
    return path


def counts(images: LabelledImages) -> dict[str, int]:
    """Photos by label."""
    assert images.labels is not None
    return dict(
        zip(images.labels, np.bincount(images.classes, minlength=len(images.labels)).tolist(), strict=True)
    )


def some(label: str, count: int, suffix: str = ".jpg") -> list[str]:
    return [f"{label}/{number}{suffix}" for number in range(count)]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        pytest.param(some("cat", 2) + some("dog", 3, ".bmp"), {"cat": 2, "dog": 3}, id="a class of bmp"),
        pytest.param(
            some("cat", 2) + some("dog/deep/er", 3), {"cat": 2, "dog": 3}, id="a class in deeper folders"
        ),
        pytest.param(
            some("cat/a", 2) + some("dog/b", 2), {"cat": 2, "dog": 2}, id="all classes in deeper folders"
        ),
        pytest.param(some("cat", 2) + some("dog", 2, ".jfif"), {"cat": 2, "dog": 2}, id="jfif"),
        pytest.param(
            some("cat", 2, ".JPG") + some("dog", 2, ".Jpe"), {"cat": 2, "dog": 2}, id="suffixes of any case"
        ),
        pytest.param(some("cat", 2) + some("train", 3), {"cat": 2, "train": 3}, id="a class called train"),
        pytest.param(
            some("cat", 2) + some("train", 3) + some("train/steam", 1),
            {"cat": 2, "train": 4},
            id="with a folder in it",
        ),
        pytest.param(
            some("train/car", 2) + some("train/train", 3), {"car": 2, "train": 3}, id="or in a part"
        ),
        pytest.param(
            some("Train/car", 2) + some("Train/bus", 3) + some("VAL/car", 1),
            {"bus": 3, "car": 2},
            id="parts of any case",
        ),
        pytest.param(some("cat", 2) + some("dog", 2, ""), {"cat": 2, "dog": 2}, id="no suffixes"),
        pytest.param(some("鸟", 2) + some("Äpfel", 2), {"Äpfel": 2, "鸟": 2}, id="letters beyond ASCII"),
        pytest.param(
            [*some("cat", 2), *some("dog", 2), "cat/.hidden.jpg", "__MACOSX/cat/0.jpg", ".git/x/0.jpg"],
            {"cat": 2, "dog": 2},
            id="hidden files",
        ),
    ],
)
@pytest.mark.parametrize("packed", [lambda folder: folder, zipped, tarred], ids=["folder", "zip", "tar"])
def test_every_photo_is_found(
    tmp_path: Path, names: Sequence[str], found: Mapping[str, int], packed: Callable[[Path], Path]
) -> None:
    data = packed(write(tmp_path / "photos", names))
    assert counts(load_images(data, "train", TINY)) == found


@pytest.mark.parametrize("inside", ["photos/", "a/b/c/", "./", "train/"])
@pytest.mark.parametrize("packed", [zipped, tarred])
def test_a_folder_around_everything_does_not_count(
    tmp_path: Path, packed: Callable[..., Path], inside: str
) -> None:
    folder = write(tmp_path / "photos", some("train/cat", 2) + some("train/dog", 2) + some("test/cat", 1))
    images = load_images(packed(folder, inside=inside), "train", TINY)
    assert images.sources == load_images(folder, "train", TINY).sources
    assert images.fingerprint() == load_images(folder, "train", TINY).fingerprint()


def test_a_zip_from_windows_may_have_backslashes(tmp_path: Path) -> None:
    data = zipped(write(tmp_path / "photos", some("cat", 2) + some("dog/old", 2)), slash="\\")
    assert counts(load_images(data, "train", TINY)) == {"cat": 2, "dog": 2}


def test_an_accented_letter_is_the_same_however_the_system_writes_it(tmp_path: Path) -> None:
    label = unicodedata.normalize("NFD", "Äpfel")
    data = write(tmp_path, some(label, 2) + some("dog", 2))
    assert load_images(data, "train", TINY).labels == ("dog", unicodedata.normalize("NFC", label))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    data = write(tmp_path / "photos", some("cat", 2) + some("dog", 2))
    write(tmp_path / "elsewhere", some("bird", 3))
    (data / "bird").symlink_to(tmp_path / "elsewhere" / "bird")
    (data / "dog" / "twin.jpg").symlink_to("0.jpg")
    (data / "dog" / "round").symlink_to(data / "dog")
    (data / "whole").symlink_to(data)
    assert counts(load_images(data, "train", TINY)) == {"bird": 3, "cat": 2, "dog": 3}
    in_tar = load_images(tarred(data), "train", TINY, skip_unreadable=True)
    assert in_tar.sources.count("dog/twin.jpg") == 1


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    data = write(tmp_path, some("cat", 2) + some("dog", 2))
    (data / "dog" / "gone.jpg").symlink_to(data / "nowhere.jpg")
    with pytest.raises(DataError, match=r"1 of 5 files cannot be read, the first: .*gone\.jpg"):
        load_images(data, "train", TINY)


@pytest.mark.parametrize(
    ("names", "says", "left"),
    [
        (
            [*some("dog", 15, ".avif"), *some("cat", 2), *some("ant", 2)],
            "15 images .*dog/ has 15 .avif",
            "ant cat",
        ),
        (
            [*some("dog", 2), *some("dog", 1, ".gif"), *some("cat", 2)],
            "1 images .*dog/ has 1 .gif",
            "cat dog",
        ),
        ([*some("cat", 2), *some("dog", 2), "bee/"], "no photos in bee/;", "cat dog"),
        (
            [*some("cat", 2), *some("dog", 2), "bee/a.txt", "bee/a.db"],
            r"in bee/ \(1 .db, 1 .txt\)",
            "cat dog",
        ),
    ],
)
def test_what_would_vanish_is_refused_unless_it_is_to_be_skipped(
    tmp_path: Path, names: Sequence[str], says: str, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = write(tmp_path, names)
    with pytest.raises(DataError, match=says + ".*--skip-unreadable"):
        load_images(data, "train", TINY)
    rest = load_images(data, "train", TINY, skip_unreadable=True)
    assert rest.labels == tuple(left.split()) and len(rest) == 4
    assert "skipped" in caplog.text


def test_an_image_without_a_suffix_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path, some("cat", 2) + some("dog", 2))
    (data / "dog" / "2").write_bytes(photo(0, ".gif"))
    with pytest.raises(DataError, match=r"1 images .*dog/ has 1 without suffix"):
        load_images(data, "train", TINY)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            some("train/a", 1) + some("train/b", 1) + some("cat", 1),
            "unclear whether 'train' is a part or a class",
        ),
        (some("train", 2) + some("test", 2), "photos directly in test/, train/"),
        (some("val/a", 1) + some("valid/a", 1), "both val/ and valid/ for validation"),
    ],
)
def test_what_may_mean_two_things_is_refused(tmp_path: Path, names: Sequence[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_images(write(tmp_path, names), "train", TINY)


def test_photos_outside_the_class_folders_are_counted(tmp_path: Path) -> None:
    parts = [name for part in ("train", "test") for label in "ab" for name in some(f"{part}/{label}", 1)]
    listing = open_data(write(tmp_path, [*parts, *some("extra", 3), "cover.jpg", "train/a/x/1.jpg"])).find(
        "train"
    )
    assert listing is not None
    assert "2 classes, 3 photos (1 in deeper folders)" in listing.summary
    assert "4 images lie in no class folder and are left out, the first: cover.jpg" in listing.summary


def test_other_files_are_counted(tmp_path: Path) -> None:
    data = write(tmp_path, some("cat", 2) + some("dog", 2))
    for name in ("cat/a.txt", "cat/b.txt", "dog/Thumbs.db"):
        (data / name).write_text("no photo")
    listing = open_data(data).find("train")
    assert listing is not None and listing.summary == "data: 2 classes, 4 photos; other files: 1 .db, 2 .txt"


def test_a_class_may_lack_in_one_part(tmp_path: Path) -> None:
    names = [
        *some("train/a", 1),
        *some("train/b", 1),
        *some("train/c", 1),
        *some("test/a", 1),
        *some("test/c", 1),
    ]
    test = load_images(write(tmp_path, names), "test", TINY)
    assert test.labels == ("a", "c") and test.classes_as(("a", "b", "c")).tolist() == [0, 2]


def test_the_layout_depends_on_names_alone() -> None:
    names = ("p/train/a/1.jpg", "p/train/b/2.jpg", "p/val/a/3.jpg")
    layout = layout_of(Sorted(names, (), (), ()), Path("p.zip"))
    assert {part: sorted(of.classes) for part, of in layout.parts.items()} == {
        "train": ["a", "b"],
        "validation": ["a"],
    }


def test_photos_without_labels_come_from_an_archive_too(tmp_path: Path) -> None:
    data = write(tmp_path / "photos", ["b/0.jpg", "a/1.jpg", "2.jpg", "a/notes.txt"])
    images = load_unlabelled(zipped(data), TINY)
    assert images.sources == ("2.jpg", "a/1.jpg", "b/0.jpg") == load_unlabelled(data, TINY).sources
    (data / "3.avif").touch()
    with pytest.raises(DataError, match=r"1 \.avif"):
        load_unlabelled(data, TINY)


@pytest.mark.parametrize("packed", [zipped, tarred])
def test_an_archive_is_read_by_many_threads_at_once(tmp_path: Path, packed: Callable[[Path], Path]) -> None:
    folder = write(tmp_path / "photos", some("cat", 40) + some("dog", 40))
    archive = open_container(packed(folder))
    names = [name for name in archive.names if not name.endswith("/")] * 5
    with ThreadPoolExecutor(8) as pool:
        for name, data in zip(names, pool.map(archive.read, names), strict=True):
            assert data == (folder / name).read_bytes()
