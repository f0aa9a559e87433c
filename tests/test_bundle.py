"""A bundle on disk: every byte accounted for, every fault named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offramp.bundle import Bundle, load_bundle, write_bundle, write_manifest
from offramp.bundle.manifest import bundle_id_for
from offramp.engine.runtime import load_blocks
from offramp.errors import BundleError


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle that a test may spoil."""
    return Path(shutil.copytree(tiny_bundle.directory, tmp_path / "copy"))


def check_refused(directory: Path, *says: str) -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle(directory)
    for text in says:
        assert text in str(caught.value)


def spoil_manifest(directory: Path, **changes: Any) -> None:
    path = directory / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_bundle_reads_back_as_it_was_written(tiny_bundle: Bundle, tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "new", tiny_bundle.manifest, tiny_bundle.graphs)
    assert written.manifest == tiny_bundle.manifest
    assert written.graphs == tiny_bundle.graphs


def test_a_missing_directory(tmp_path: Path) -> None:
    check_refused(tmp_path / "gone", "no bundle in", "offramp export")


def test_a_missing_file(copy: Path) -> None:
    (copy / "block-2.onnx").unlink()
    check_refused(copy, "block 2 cannot be read", "block-2.onnx")


def test_an_altered_file(copy: Path) -> None:
    graph = (copy / "block-3.onnx").read_bytes()
    (copy / "block-3.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
    check_refused(copy, "block-3.onnx was altered")


def test_a_foreign_file(copy: Path) -> None:
    (copy / "weights.pkl").write_bytes(b"")
    check_refused(copy, "weights.pkl", "does not list")


def test_a_hidden_file_of_the_desktop_does_no_harm(copy: Path) -> None:
    (copy / ".DS_Store").write_bytes(b"")
    assert load_bundle(copy)


@pytest.mark.parametrize("content", ["", "{", "\x00\xff", "[]", "7", "null", "[" * 100_000])
def test_a_manifest_that_is_none(copy: Path, content: str) -> None:
    (copy / "bundle.json").write_text(content, encoding="latin-1")
    check_refused(copy, "bundle.json")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_manifest_of_another_version(copy: Path, version: object) -> None:
    spoil_manifest(copy, format_version=version)
    check_refused(copy, f"format version {version!r}", "reads 1")


def test_a_manifest_with_an_unknown_field(copy: Path) -> None:
    spoil_manifest(copy, notes="hello")
    check_refused(copy, "notes")


def test_a_manifest_whose_labels_were_changed(copy: Path) -> None:
    spoil_manifest(copy, labels=["dog", "cat", "bee", "ant"])
    check_refused(copy, "its contents make it")


def test_a_graph_that_is_no_graph_is_named_when_it_is_loaded(copy: Path, tiny_bundle: Bundle) -> None:
    blocks = list(tiny_bundle.manifest.blocks)
    (copy / "block-1.onnx").write_bytes(b"rubbish")
    blocks[0] = blocks[0].model_copy(update={"sha256": hashlib.sha256(b"rubbish").hexdigest()})
    changed = tiny_bundle.manifest.model_copy(update={"blocks": tuple(blocks)})
    write_manifest(copy, changed.model_copy(update={"bundle_id": bundle_id_for(changed)}))
    with pytest.raises(BundleError, match=r"block-1\.onnx is not a graph"):
        load_blocks(load_bundle(copy), 1, 3)


def test_graphs_in_the_wrong_place_are_named_when_they_are_loaded(copy: Path, tiny_bundle: Bundle) -> None:
    blocks = list(tiny_bundle.manifest.blocks)
    second = blocks[1].model_dump(include={"file", "sha256"})
    blocks[2] = blocks[2].model_copy(update=second)
    (copy / "block-3.onnx").unlink()
    changed = tiny_bundle.manifest.model_copy(update={"blocks": tuple(blocks)})
    write_manifest(copy, changed.model_copy(update={"bundle_id": bundle_id_for(changed)}))
    with pytest.raises(BundleError, match="but the manifest says"):
        load_blocks(load_bundle(copy), 3, 3)


def test_a_bundle_is_never_written_over_another(copy: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="not empty"):
        write_bundle(copy, tiny_bundle.manifest, tiny_bundle.graphs)


_WRITE_ANEW = """
import sys
from pathlib import Path
from offramp.bundle import Manifest, write_manifest
write_manifest(Path(sys.argv[1]), Manifest.model_validate_json(sys.stdin.buffer.read()))
"""


def test_labels_are_written_alike_under_any_locale(copy: Path, tiny_bundle: Bundle) -> None:
    changed = tiny_bundle.manifest.model_copy(update={"labels": ("Ameise", "Bär", "猫", "犬")})
    changed = changed.model_copy(update={"bundle_id": bundle_id_for(changed)})
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run(
        [sys.executable, "-c", _WRITE_ANEW, str(copy)],
        input=changed.model_dump_json().encode(),
        env={**os.environ, **ascii_only},
        check=True,
        timeout=60,
    )
    assert load_bundle(copy).manifest.labels == ("Ameise", "Bär", "猫", "犬")


def test_a_reader_of_the_old_manifest_is_not_disturbed_by_a_new_one(copy: Path, tiny_bundle: Bundle) -> None:
    old = (copy / "bundle.json").read_bytes()
    with (copy / "bundle.json").open("rb") as reader:
        begun = reader.read(100)
        write_manifest(copy, tiny_bundle.manifest.model_copy(update={"provenance": None, "name": "other"}))
        assert begun + reader.read() == old != (copy / "bundle.json").read_bytes()


def test_a_replaced_manifest_leaves_no_half_file_behind(copy: Path, tiny_bundle: Bundle) -> None:
    write_manifest(copy, tiny_bundle.manifest)
    assert {path.name for path in copy.iterdir()} == {"bundle.json", *(f"block-{n}.onnx" for n in (1, 2, 3))}
