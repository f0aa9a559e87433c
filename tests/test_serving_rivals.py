"""What the serving benchmark says of limits and rivals holds: same pixels, all workers, one core."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serving.backbone import write_backbone
from benchmarks.serving.bare import BareLoop
from benchmarks.serving.checking import Expected, check_rival, expected_answers, none_degraded
from benchmarks.serving.cores import check_pinned, one_core, other_cores, pinned
from benchmarks.serving.rivals import PROGRAMS, RIVALS, Rival
from benchmarks.serving.rivals.decoding import Decoder
from benchmarks.serving.servers import Server, Tree, free_port, offramp, running
from edge_node.settings import EdgeSettings
from offramp.bundle import Bundle, Preprocessing
from offramp.engine.images import decode_image
from offramp.errors import ConfigError
from tests.nodes import png, running_edge


def encoded(size: tuple[int, int], kind: str, mode: str = "RGB", orientation: int = 1) -> bytes:
    """A picture with edges and slopes, as a file."""
    width, height = size
    down, across = np.mgrid[:height, :width]
    levels = np.stack(
        [across * 200 // width, down * 200 // height, (across // 9 + down // 7) % 2 * 200], axis=2
    )
    image = Image.fromarray(levels.astype(np.uint8)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray((across % 256).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


PHOTOS = {
    "landscape": encoded((301, 200), "JPEG"),
    "portrait": encoded((97, 143), "JPEG"),
    "turned": encoded((301, 200), "JPEG", orientation=6),
    "grey": encoded((150, 150), "JPEG", mode="L"),
    "of the network's size": encoded((24, 24), "JPEG"),
    "transparent": encoded((90, 60), "PNG", mode="RGBA"),
}
RECIPES: dict[str, dict[str, Any]] = {
    "stretched": {},
    "stretched, then cropped": {"resize_to": (30, 28), "interpolation": "bicubic", "jpeg_margin": 0},
    "shorter side, bicubic": {"resize": "shorter_side", "resize_to": 27, "interpolation": "bicubic"},
    "shorter side, bilinear, at full size": {"resize": "shorter_side", "resize_to": 32, "jpeg_margin": 0},
    "shorter side, nearest": {"resize": "shorter_side", "resize_to": 27, "interpolation": "nearest"},
    "shorter side, grey": {"resize": "shorter_side", "mode": "L", "mean": (0.5,), "std": (0.5,)},
    "fitted": {"resize": "fit", "interpolation": "lanczos", "pad_color": (9, 99, 199), "background": 255},
}


@pytest.mark.parametrize("turbo", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_rival_gives_its_network_the_pixels_that_ours_gets(recipe: str, turbo: bool) -> None:
    fields = {"height": 24, "width": 24, "mode": "RGB", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    preprocessing = Preprocessing(**{**fields, **RECIPES[recipe]})
    decode = Decoder(preprocessing.model_dump(mode="json"), turbo=turbo)
    for name, photo in PHOTOS.items():
        np.testing.assert_array_equal(decode(photo)[0], decode_image(photo, preprocessing), err_msg=name)


@pytest.mark.parametrize("resize", ["exact", "shorter_side", "fit"])
def test_a_rival_with_our_decoder_resizes_with_the_library_that_the_bundle_names(resize: Any) -> None:
    preprocessing = Preprocessing(
        height=24,
        width=24,
        mode="RGB",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        resize=resize,
        resizer="fast_image_resize",
    )
    decode = Decoder(preprocessing.model_dump(mode="json"), turbo=True)
    for name, photo in PHOTOS.items():
        np.testing.assert_array_equal(decode(photo)[0], decode_image(photo, preprocessing), err_msg=name)


@pytest.fixture(scope="module")
def spec(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a rival is told to serve: the tiny bundle's backbone."""
    folder = tmp_path_factory.mktemp("rival")
    write_backbone(tiny_bundle, folder / "backbone.onnx")
    manifest = tiny_bundle.manifest
    what = {
        "model": str(folder / "backbone.onnx"),
        "labels": manifest.labels,
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "turbo": False,
    }
    (folder / "spec.json").write_text(json.dumps(what), encoding="utf-8")
    return folder / "spec.json"


@pytest.fixture(scope="module")
def expected(tiny_bundle: Bundle, tiny_pixels: NDArray[np.uint8]) -> list[Expected]:
    return expected_answers(tiny_bundle, [png(image) for image in tiny_pixels[:3]])


def rival_named(name: str) -> Rival:
    (found,) = (rival for rival in RIVALS if rival.name == name)
    return found


TWO_WORKERS = rival_named("FastAPI, 2 workers")


@pytest.fixture(scope="module")
def two_workers(spec: Path, expected: list[Expected]) -> Iterator[Server]:
    """The rival, in the environment of the tests."""
    port = free_port()
    command = {"server": TWO_WORKERS.argv(Path(sys.prefix), port)}
    url = f"http://127.0.0.1:{port}{TWO_WORKERS.path}"
    variables = TWO_WORKERS.variables(spec, port)
    with running(TWO_WORKERS.name, url, command, variables, expected[0].photo) as server:
        yield server


def test_both_workers_answer_as_the_backbone_does(two_workers: Server, expected: list[Expected]) -> None:
    check_rival(TWO_WORKERS, two_workers, expected)


def test_a_rival_with_fewer_workers_than_its_name_says_is_not_timed(
    two_workers: Server, expected: list[Expected]
) -> None:
    with pytest.raises(
        ConfigError, match="2 workers of FastAPI, 2 workers answered 96 connections, expected 3"
    ):
        check_rival(replace(TWO_WORKERS, workers=3), two_workers, expected)


def test_a_rival_that_answers_otherwise_is_not_timed(two_workers: Server, expected: list[Expected]) -> None:
    other = replace(expected[0], confidence=expected[0].confidence - 0.01)
    with pytest.raises(ConfigError, match="it decodes or computes something else"):
        check_rival(TWO_WORKERS, two_workers, [other])


@pytest.mark.parametrize(
    ("name", "threads"),
    [("FastAPI, 1 worker, 2 requests at once", 1), ("FastAPI, 1 worker, 2 threads a request", 2)],
)
def test_a_rival_runs_one_image_on_as_many_threads_as_its_name_says(
    name: str, threads: int, spec: Path, expected: list[Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PROGRAMS)
    for variable, value in rival_named(name).variables(spec, 0).items():
        monkeypatch.setenv(variable, value)
    plain = importlib.import_module("plain").Plain()
    assert plain.session.get_session_options().intra_op_num_threads == threads
    assert plain(expected[0].photo)["label"] == expected[0].label


def test_an_edge_on_one_core_stays_there(tiny_bundle: Bundle, expected: list[Expected]) -> None:
    core = one_core()
    start = offramp(tiny_bundle.directory, "full", expected[0].photo, edge=(), cloud=None, cores=core)
    with start as server:
        process = server.trees["edge"].process
        assert set(process.cpu_affinity()) == core
        assert all(os.sched_getaffinity(thread.id) == core for thread in process.threads())


def test_a_thread_on_another_core_is_found_out() -> None:
    with pytest.raises(ConfigError, match=r"was started on cores \[999\], but thread"):
        check_pinned("a server", psutil.Process(), frozenset({999}))


def test_a_node_kept_to_one_core_has_one_worker(tiny_bundle: Bundle) -> None:
    before = os.sched_getaffinity(0)
    with pinned(one_core()):
        assert EdgeSettings(bundle=tiny_bundle.directory).workers == 1
    assert os.sched_getaffinity(0) == before
    assert EdgeSettings(bundle=tiny_bundle.directory).workers == len(before)


def test_clients_get_the_cores_that_the_server_leaves() -> None:
    with pinned(one_core()):
        assert other_cores(one_core()) == one_core()
    assert not other_cores(frozenset({999})) & {999}


def test_the_bare_loop_decodes_and_runs_on_one_core(tiny_bundle: Bundle, expected: list[Expected]) -> None:
    before = os.sched_getaffinity(0)
    found = BareLoop(tiny_bundle, (1.0, 1.0), [each.photo for each in expected]).run(0.05)
    assert 0 < found.decode_ms < 1000 / found.per_second
    assert os.sched_getaffinity(0) == before


async def test_figures_with_degraded_answers_are_refused(
    tiny_bundle: Bundle, tiny_pixels: NDArray[np.uint8]
) -> None:
    async with running_edge(tiny_bundle, upstream="127.0.0.1:1") as edge:
        server = Server("an edge", f"{str(edge.base_url).rstrip('/')}/v1/predict", {}, 0.0)

        def ask() -> None:
            with none_degraded(server):
                for image in tiny_pixels[:10]:
                    httpx.post(server.url, content=png(image), trust_env=False).raise_for_status()

        with pytest.raises(ConfigError, match="answers of an edge were degraded"):
            await asyncio.to_thread(ask)


class Winding(Tree):
    """A process that is busy for some looks more."""

    def __init__(self, busy: int) -> None:
        super().__init__(psutil.Process())
        self.busy, self.looks = busy, 0

    def cpu_s(self) -> float:
        self.looks += 1
        return float(min(self.looks, self.busy))


def test_a_turn_begins_when_the_server_has_finished_what_was_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.serving.servers._LOOK_S", 0.001)
    tree = Winding(busy=5)
    Server("a server", "http://x", {"server": tree}, 0.0).wait_until_idle()
    assert tree.looks == 6
