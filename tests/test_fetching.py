"""`offramp data`: original data sets from a server of this machine, and all that can go wrong on the way."""

from __future__ import annotations

import hashlib
import io
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.authoring.data import Part, load_images
from offramp.bundle import Preprocessing
from offramp.cli.data import DATA_SETS, DataSet, leave_in
from offramp.cli.fetching import Original
from offramp.errors import DataError
from tests.commands import check_refused, offramp
from tests.mirror import serving
from tests.nodes import closed_port_address

GREY = Preprocessing(height=28, width=28, mode="L", mean=(0.0,), std=(1.0,))
COLOUR = Preprocessing(height=32, width=32, mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FIRST = "train-images-idx3-ubyte.gz"

# The files of the Debian package are the originals but for gzip's header, which has neither a time nor a name.
PACKED_AT = {"train": 1504176606, "t10k": 1504176627}


def original(path: Path) -> bytes:
    packed_at = PACKED_AT[path.name.partition("-")[0]].to_bytes(4, "little")
    return b"\x1f\x8b\x08\x08" + packed_at + b"\x00\x03" + path.stem.encode() + b"\0" + path.read_bytes()[10:]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def listed(files: Mapping[str, bytes], images: int = 0) -> DataSet:
    originals = [Original(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()]
    return DataSet("", tuple(originals), "b-lenet-mnist", images)


def contents(directory: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_fashion_mnist_is_fetched_checked_and_can_be_trained_on(fashion_mnist: Path, tmp_path: Path) -> None:
    files = {path.name: original(path) for path in fashion_mnist.glob("*.gz")}
    out = tmp_path / "new" / "fashion"
    with serving(files) as mirror:
        result = offramp("data", "fashion-mnist", "--out", out, "--mirror", f"{mirror.address}/")
        assert result.exit_code == 0, result.output
        again = offramp("data", "fashion-mnist", "--out", out, "--mirror", mirror.address)
    assert contents(out) == files
    assert f"from {mirror.address}" in result.stderr and f"--data {out}" in result.stderr
    assert again.exit_code == 0 and sorted(mirror.asked) == sorted(files)
    sizes: Mapping[Part, int] = {"train": 60_000, "test": 10_000}
    for part, count in sizes.items():
        images = load_images(out, part, GREY)
        assert np.array_equal(np.bincount(images.classes), [count // 10] * 10)


def test_only_what_is_missing_or_altered_is_fetched(tmp_path: Path) -> None:
    files = {"whole.gz": b"1" * 500, "altered.gz": b"2" * 500, "cut.gz": b"3" * 500, "missing.gz": b"4" * 500}
    (tmp_path / "whole.gz").write_bytes(files["whole.gz"])
    (tmp_path / "altered.gz").write_bytes(b"2" * 499 + b"x")
    (tmp_path / "cut.gz").write_bytes(b"3" * 499)
    with serving(files) as mirror:
        leave_in(tmp_path, listed(files), mirror.address)
    assert mirror.asked == ["altered.gz", "cut.gz", "missing.gz"]
    assert contents(tmp_path) == files


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"2" * 500, "has SHA-256"),
        (b"1" * 499, "has SHA-256"),
        (b"1" * 501, "longer than the original's 500 bytes"),
        (None, "answers 404 Not Found"),
    ],
    ids=["altered", "short", "long", "missing"],
)
def test_what_is_not_the_original_is_not_left_behind(sent: bytes | None, says: str, tmp_path: Path) -> None:
    with (
        serving({} if sent is None else {"a.gz": sent}) as mirror,
        pytest.raises(DataError, match=f"{mirror.address}/a.gz .*{says}.*--mirror"),
    ):
        leave_in(tmp_path, listed({"a.gz": b"1" * 500}), mirror.address)
    assert not contents(tmp_path)


def test_a_server_that_does_not_have_the_files_is_named_in_one_line(tmp_path: Path) -> None:
    with serving({}) as mirror:
        result = offramp("data", "mnist", "--out", tmp_path, "--mirror", mirror.address)
    check_refused(result, f"{mirror.address}/{FIRST} answers 404 Not Found", "--mirror")


def test_a_server_that_nobody_runs_is_named_in_one_line(tmp_path: Path) -> None:
    address = f"http://{closed_port_address()}"
    result = offramp("data", "mnist", "--out", tmp_path, "--mirror", address)
    check_refused(result, f"{address}/{FIRST} cannot be reached", "network", "HTTPS_PROXY", "--mirror")
    assert not contents(tmp_path)


@pytest.mark.parametrize("address", ["data", "ftp://data/mnist", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused_before_anything_is_written(address: str, tmp_path: Path) -> None:
    result = offramp("data", "mnist", "--out", tmp_path / "new", "--mirror", address)
    check_refused(result, "--mirror", address, "write http://")
    assert not (tmp_path / "new").exists()


def test_what_breaks_off_in_the_middle_leaves_the_whole_files_alone(tmp_path: Path) -> None:
    files = {"a.gz": b"1" * 5000, "b.gz": b"2" * 5000}
    with (
        serving(files, broken=frozenset({"b.gz"})) as mirror,
        pytest.raises(DataError, match=r"b.gz broke off after 2500 of 5000 bytes: .*; run this again"),
    ):
        leave_in(tmp_path, listed(files), mirror.address)
    assert contents(tmp_path) == {"a.gz": files["a.gz"]}


def test_ctrl_c_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving({FIRST: bytes(100_000)}, broken=frozenset({FIRST}), hangs=True) as mirror:
        command = ["-m", "offramp.cli", "data", "mnist", "--out", str(tmp_path), "--mirror", mirror.address]
        with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as fetching:
            assert mirror.in_the_middle.wait(60)
            fetching.send_signal(signal.SIGINT)
            said = fetching.communicate()[1]
    assert fetching.returncode == 130
    assert "Traceback" not in said
    assert not contents(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = offramp("data", "mnist", "--out", tmp_path / "file" / "mnist")
    check_refused(result, f"{tmp_path}/file/mnist cannot be written: Not a directory", "--out")


def test_a_file_that_finds_no_room_is_told_and_removed(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving({FIRST: bytes(9_000_000)}) as mirror:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            result = offramp("data", "mnist", "--out", tmp_path, "--mirror", mirror.address)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check_refused(result, f"{tmp_path} cannot be written: File too large", "make room", "--out")
    assert not contents(tmp_path)


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"a.gz": b"1" * 500}
    with serving(files) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        leave_in(tmp_path, listed(files), "http://data.invalid/mnist")
    assert contents(tmp_path) == files


def test_a_proxy_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://proxy")
    check_refused(offramp("data", "mnist", "--out", tmp_path), "HTTPS_PROXY", "cannot be used")


def records(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bytes]:
    """Classes, pixels (N, 32, 32, 3), and both as CIFAR's records."""
    generator = np.random.default_rng(seed)
    classes_N = np.arange(count, dtype=np.uint8)[::-1] % 10
    pixels_NHWC = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    planes = pixels_NHWC.transpose(0, 3, 1, 2).reshape(count, -1)
    return classes_N, pixels_NHWC, np.concatenate([classes_N[:, np.newaxis], planes], axis=1).tobytes()


def archive(files: Sequence[tuple[str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in files:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def cifar10_files() -> list[tuple[str, bytes]]:
    """Five batches of four images each, and a test batch of ten, not in the order of their names."""
    data = records(20, seed=1)[2]
    batches = [(f"data_batch_{n + 1}.bin", data[n * 4 * 3073 :][: 4 * 3073]) for n in range(5)]
    return [("readme.html", b"<p>"), ("test_batch.bin", records(10, seed=2)[2]), *reversed(batches)]


def test_cifar10_becomes_an_image_folder_without_a_loss(tmp_path: Path) -> None:
    files = {"cifar-10-binary.tar.gz": archive(cifar10_files())}
    wanted = listed(files, images=30)
    with serving(files) as mirror:
        leave_in(tmp_path, wanted, mirror.address)
        leave_in(tmp_path, wanted, mirror.address)
    assert mirror.asked == ["cifar-10-binary.tar.gz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"]
    made: Mapping[Part, tuple[NDArray[np.uint8], NDArray[np.uint8], bytes]] = {
        "train": records(20, seed=1),
        "test": records(10, seed=2),
    }
    for part, (classes_N, pixels_NHWC, _) in made.items():
        found = load_images(tmp_path, part, COLOUR)
        # By class, and in a class by the place in the records.
        order = np.argsort(classes_N, kind="stable")
        assert found.labels == CLASSES
        assert np.array_equal(found.classes, classes_N[order])
        assert np.array_equal(found.pixels[:], pixels_NHWC[order])
        assert found.sources == tuple(f"{CLASSES[classes_N[n]]}/{n:05d}.png" for n in order)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (cifar10_files()[:-1], "lacks data_batch_1.bin"),
        ([(name, data[:-1]) for name, data in cifar10_files()], "not a multiple of 3073"),
    ],
)
def test_an_archive_of_something_else_leaves_nothing_that_looks_complete(
    files: Sequence[tuple[str, bytes]], says: str, tmp_path: Path
) -> None:
    packed = {"cifar-10-binary.tar.gz": archive(files)}
    with serving(packed) as mirror, pytest.raises(DataError, match=says):
        leave_in(tmp_path, listed(packed, images=30), mirror.address)
    assert contents(tmp_path) == packed


def test_images_of_somebody_else_are_neither_mixed_with_cifar10_nor_taken_for_it(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "ant").mkdir(parents=True)
        result = offramp("data", "cifar10", "--out", tmp_path)
        check_refused(result, f"{tmp_path}/", "exists, but is not CIFAR-10", "--out")


def test_every_data_set_names_a_recipe_that_there_is_and_an_encrypted_address() -> None:
    from offramp.authoring.recipes.named import recipe_named

    for wanted in DATA_SETS.values():
        assert recipe_named(wanted.recipe)
        assert wanted.address.startswith("https://") and wanted.address.endswith("/")
