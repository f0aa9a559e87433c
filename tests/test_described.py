"""Photos that a `labels.csv` describes, and what is said of one that does not fit."""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.authoring.data import LabelledImages, load_images, open_data
from offramp.bundle import Preprocessing
from offramp.bundle.task import Kind
from offramp.errors import DataError

GREY = Preprocessing(height=4, width=4, mode="L", mean=(0.5,), std=(0.25,))


def photo(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), shade, np.uint8)).save(path)


def described(
    folder: Path, text: str, photos: str = "a.png b.png c/d.png", *, name: str = "labels.csv"
) -> Path:
    for shade, file in enumerate(photos.split()):
        photo(folder / file, shade)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def loaded(folder: Path, kind: Kind = "multi_label") -> LabelledImages:
    return load_images(folder, "train", GREY, kind=kind)


LABELS = "file,labels\nc/d.png,red\na.png,round;red\nb.png,\n"
VALUES = "file,value\na.png,1.5\nb.png,-2\n./c/d.png,3e1\n"


def test_labels_come_in_the_order_of_their_names_and_photos_too(tmp_path: Path) -> None:
    images = loaded(described(tmp_path, LABELS))
    assert images.labels == ("red", "round") and images.sources == ("a.png", "b.png", "c/d.png")
    assert images.classes.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_values_are_read_as_they_are(tmp_path: Path) -> None:
    images = loaded(described(tmp_path, VALUES), "regression")
    assert images.labels is None and images.classes.tolist() == [1.5, -2.0, 30.0]
    assert images.classes_as(()).tolist() == [1.5, -2.0, 30.0]


def test_one_label_for_each_photo_is_a_class(tmp_path: Path) -> None:
    images = loaded(described(tmp_path, "file,labels\na.png,x\nb.png,y\nc/d.png,x\n"), "single_label")
    assert images.labels == ("x", "y") and images.classes.tolist() == [0, 1, 0]


def test_the_order_of_the_lines_and_the_container_change_nothing(tmp_path: Path) -> None:
    one = described(tmp_path / "one", LABELS)
    header, *lines = LABELS.splitlines()
    other = described(tmp_path / "other", "\n".join([header, *reversed(lines)]))
    with zipfile.ZipFile(tmp_path / "zip.zip", "w") as file:
        for path in (each for each in one.rglob("*") if each.is_file()):
            file.write(path, f"around/{path.relative_to(one)}")
    found = {loaded(path).fingerprint() for path in (one, other, tmp_path / "zip.zip")}
    assert len(found) == 1


def test_another_label_is_another_fingerprint(tmp_path: Path) -> None:
    one = loaded(described(tmp_path / "one", LABELS))
    other = loaded(described(tmp_path / "other", LABELS.replace("b.png,", "b.png,red")))
    assert one.fingerprint() != other.fingerprint()


def test_labels_are_numbered_as_the_network_numbers_them(tmp_path: Path) -> None:
    images = loaded(described(tmp_path, LABELS))
    assert images.classes_as(("blue", "round", "red")).tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(DataError, match="'round', but the network knows only red, blue"):
        images.classes_as(("red", "blue"))


def test_each_part_has_its_own_file(tmp_path: Path) -> None:
    described(tmp_path / "train", LABELS)
    described(tmp_path / "test", "file,labels\na.png,red\nb.png,round\nc/d.png,\n")
    assert open_data(tmp_path, "multi_label").parts == {"train", "test"}
    assert load_images(tmp_path, "test", GREY, kind="multi_label").classes.tolist() == [
        [1, 0],
        [0, 1],
        [0, 0],
    ]
    with pytest.raises(DataError, match="none for validation/"):
        load_images(tmp_path, "validation", GREY, kind="multi_label")


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("single_label", LABELS, r"line 3: a.png has 2 labels, round, red, .* --task multi_label"),
        ("single_label", "file,labels\na.png,x\nb.png,y\nc/d.png,\n", "c/d.png has no label"),
        ("regression", LABELS, "has a column 'labels', but the task regression needs 'value'"),
        ("multi_label", VALUES, "has a column 'value', but the task multi_label needs 'labels'"),
        ("multi_label", "photo,tags\n", "begins with 'photo,tags', expected 'file,labels'"),
        ("multi_label", "", "begins with '', expected 'file,labels'"),
        ("multi_label", "file,labels\na.png,x\nb.png,y\n", "says nothing of 1 photos, the first: c/d.png"),
        ("multi_label", LABELS + "e.png,red\nf.png,red\n", r"line 5: there is no photo e.png, nor 1 others"),
        ("multi_label", LABELS + "a.png,red\n", "line 5: a.png is in line 3 already"),
        ("multi_label", LABELS.replace("round;red", "red"), "has 1 labels in all, expected at least two"),
        ("multi_label", LABELS + "x,y,z\n", "line 5 has 3 fields"),
        (
            "regression",
            VALUES.replace("1.5", "wide"),
            "line 2: the value of a.png is 'wide', expected a number",
        ),
        ("regression", VALUES.replace("1.5", "nan"), "is 'nan', expected a number"),
        ("regression", VALUES.replace("1.5", ""), "is '', expected a number"),
        ("regression", VALUES.replace("1.5", "1,5"), "write a decimal point"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, kind: Kind, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        loaded(described(tmp_path, text), kind)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    described(tmp_path, "").joinpath("labels.csv").write_bytes(b"file,labels\n\xff\xfe")
    with pytest.raises(DataError, match="no table of comma-separated values in UTF-8"):
        loaded(tmp_path)


def test_one_file_for_several_parts_is_refused(tmp_path: Path) -> None:
    described(tmp_path, "file,labels\n", "train/a.png test/b.png")
    with pytest.raises(DataError, match=r"one labels\.csv into each of train/"):
        loaded(tmp_path)


def test_a_folder_for_each_class_is_not_enough_for_other_tasks(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/b.png"):
        photo(tmp_path / name)
    with pytest.raises(DataError, match=r"not enough for multi_label; describe the photos in a labels\.csv"):
        loaded(tmp_path)


def test_an_unreadable_photo_is_named_or_skipped_with_its_line(tmp_path: Path) -> None:
    folder = described(tmp_path, LABELS + "e.gif,red\n")
    (folder / "e.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"1 \.gif"):
        loaded(folder)
    assert len(load_images(folder, "train", GREY, kind="multi_label", skip_unreadable=True)) == 3


def test_the_same_picture_in_two_classes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for shade, name in enumerate(("x/a.png", "y/b.png", "y/c.png")):
        photo(tmp_path / name, shade)
    shutil.copy(tmp_path / "x" / "a.png", tmp_path / "y" / "z.png")
    shutil.copy(tmp_path / "y" / "b.png", tmp_path / "y" / "twice.png")  # the same class: nothing contradicts
    with caplog.at_level(logging.WARNING):
        load_images(tmp_path, "train", GREY)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "photos=1 first=x/a.png also=y/z.png" in said and "--task multi_label" in said
