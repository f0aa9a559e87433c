"""`offramp predict`: files and folders, in this process and through a node, for people and for programs."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from offramp.bundle import load_bundle
from tests.commands import check_refused, offramp
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES
from tests.nodes import closed_port_address, running_edge


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


class TestInThisProcess:
    def test_it_shows_where_each_photo_leaves(self) -> None:
        photos = sorted((SAMPLES / "trouser").iterdir())[:3]
        result = offramp("predict", FASHION_BUNDLE, *photos, "--thetas", "0")
        assert result.stdout.count("trouser") >= 3 and result.stdout.count("exit-1") == 3
        assert "3 photos left at exit-1 100.0%; 0 degraded" in result.stderr

    def test_folders_are_searched_for_photos(self, tmp_path: Path) -> None:
        shutil.copytree(SAMPLES / "bag", tmp_path / "in" / "deeper")
        (tmp_path / "in" / "notes.txt").write_text("no photo")
        found = rows(offramp("predict", FASHION_BUNDLE, tmp_path, "--json").stdout)
        assert len(found) == 50 and {row["tier"] for row in found} == {"here"}

    def test_csv_says_the_same_as_json(self) -> None:
        as_json = rows(offramp("predict", FASHION_BUNDLE, SAMPLES / "shirt", "--json").stdout)
        text = offramp("predict", FASHION_BUNDLE, SAMPLES / "shirt", "--csv").stdout
        as_csv = list(csv.DictReader(io.StringIO(text)))
        assert [{k: str(v) for k, v in row.items()} for row in as_json] == as_csv

    def test_a_broken_photo_is_named_and_the_others_are_answered(self, tmp_path: Path) -> None:
        shutil.copytree(SAMPLES / "bag", tmp_path / "bag")
        broken = min((tmp_path / "bag").iterdir())
        broken.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        result = offramp("predict", FASHION_BUNDLE, tmp_path / "bag", "--json")
        assert len(rows(result.stdout)) == 49
        check_refused(result, broken.name, "(1 of 50 photos)")

    def test_a_file_that_is_no_image_is_named(self) -> None:
        refused = offramp("predict", FASHION_BUNDLE, ROOT / "README.md")
        check_refused(refused, "README.md", "JPEG, PNG or WebP")

    def test_a_file_that_is_not_there_is_named(self) -> None:
        check_refused(offramp("predict", FASHION_BUNDLE, "gone.png"), "gone.png cannot be read")


class TestThroughANode:
    async def test_answers_are_those_of_this_process(self) -> None:
        bundle = load_bundle(FASHION_BUNDLE)
        async with running_edge(bundle, blocks="1-2") as client:
            address = str(client.base_url)
            asked = await asyncio.to_thread(offramp, "predict", address, SAMPLES / "shirt", "--json")
        here = rows(offramp("predict", FASHION_BUNDLE, SAMPLES / "shirt", "--json").stdout)
        assert rows(asked.stdout) == [{**row, "tier": "edge"} for row in here]

    def test_a_node_that_is_not_there_is_named(self) -> None:
        address = f"http://{closed_port_address()}"
        check_refused(offramp("predict", address, SAMPLES / "bag"), address, "did not answer")

    @pytest.mark.parametrize("option", ["--point=full", "--thetas=0.5"])
    def test_a_node_decides_by_its_own_policy(self, option: str) -> None:
        check_refused(offramp("predict", "http://127.0.0.1:9", SAMPLES / "bag", option), "PUT /v1/policy")
