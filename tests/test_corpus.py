"""What once failed, or was made to: every file in tests/corpus/ is refused by name or answered, and soon.

`python -m benchmarks.fuzz` adds to the folder. The inputs that the fuzzer begins with are tried as well.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from benchmarks.fuzz.targets import TARGETS, target_named

CORPUS = Path(__file__).parent / "corpus"
# The fuzzer's own limit is a tenth of this, on a machine that does nothing else.
_SLOW_S = 1.0


@pytest.mark.parametrize("name", TARGETS)
async def test_nothing_that_once_failed_fails_again(name: str) -> None:
    target = target_named(name)
    kept = {file.name: file.read_bytes() for file in sorted((CORPUS / name).glob("*"))}
    seeds = {f"seed {number}": seed for number, seed in enumerate(target.seeds())}
    async with target.ready() as once:
        for file, data in (seeds | kept).items():
            begun = time.process_time()
            async with asyncio.timeout(20):
                await once(data)
            assert time.process_time() - begun < _SLOW_S, file


def test_every_folder_of_the_corpus_has_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} <= set(TARGETS)
