"""Strangers: what costs them little and the node much (rows 1 to 4, 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import httpx

from tests.chaos import files, strangers
from tests.chaos.stage import Attack, Check, Outcome, Stage
from tests.chaos.stage import Scenario as S
from tests.chaos.strangers import Counting


async def announced_bodies(stage: Stage) -> Outcome:
    edge, _ = stage.pair()
    return await stage.under_attack(edge, strangers.announce, 200)


async def _posted(
    stage: Stage, make: Callable[[], bytes], kind: str, at_once: int, every_s: float
) -> Outcome:
    edge, _ = stage.pair()
    return await stage.under_attack(edge, strangers.post, make, kind, at_once, every_s)


async def repeated_scans(stage: Stage) -> Outcome:
    """Two at a time; afterwards the node must still leave when it is told to."""
    edge, _ = stage.pair()
    make = partial(files.repeated_scan, 2380)
    found = await stage.under_attack(edge, strangers.post, make, "image/jpeg", 2, 0.05)
    last = stage.stranger(strangers.post, edge.address, make, "image/jpeg", 2, 0.05)
    await asyncio.to_thread(last.until_begun)
    edge.terminate()
    left_s = await asyncio.to_thread(edge.wait, 14)
    return found.but(
        Check(
            "leaves within 12 s of SIGTERM",
            left_s is not None and left_s <= 12,
            f"{left_s and round(left_s, 1)} s",
        )
    )


async def stuck_workers(stage: Stage) -> Outcome:
    """Two of 9.6 MB: normal photos are answered, or the node says that it is not ready."""
    return await _posted(stage, partial(files.repeated_scan, 116_000), "image/jpeg", 2, 0.05)


async def repeated_scans_at_the_cloud(stage: Stage) -> Outcome:
    """The same over gRPC, while an edge needs that cloud."""
    edge, cloud = stage.pair("--payload", "exact", all_to_cloud=True)
    found = await stage.under_attack(edge, _post_to_cloud, cloud.address)
    assert found.during is not None
    degraded, sent = found.during.degraded, found.during.sent
    return found.but(Check("no answer is degraded", degraded == 0, f"{degraded} of {sent}"))


async def _post_to_cloud(_: str, count: Counting, cloud: str) -> None:
    from tests.chaos.calls import infer_images

    while True:
        calls = [infer_images(cloud, [files.repeated_scan(2380)], timeout_s=30) for _ in range(2)]
        count.one(2)
        await asyncio.gather(*calls, return_exceptions=True)


async def half_heads(stage: Stage) -> Outcome:
    edge, _ = stage.pair(files=1024)
    found = await stage.under_attack(edge, strangers.half_heads, 1100, seconds=(60, 6))
    said = "event=" in edge.log.split("event=ready")[-1].replace("event=answered", "")
    return found.but(Check("the log says so", said, "a line" if said else "nothing"))


async def _held(stage: Stage, attack: Attack, number: int, files: int | None) -> Outcome:
    edge, _ = stage.pair(files=files)
    return await stage.under_attack(edge, attack, number, seconds=(40, 6))


async def descriptors_in_words(stage: Stage) -> Outcome:
    """With few descriptors left, an image is never called bad for it."""
    edge, _ = stage.pair(files=128)
    stranger = stage.stranger(strangers.idle, edge.address, 120)
    await asyncio.to_thread(stranger.until_begun)
    found = []
    with httpx.Client(base_url=edge.url, timeout=5, trust_env=False) as client:
        for photo in [*files.photos()] * 3:
            try:
                found.append(client.post("/v1/predict", content=photo))
            except httpx.HTTPError:
                continue
    blamed = [each.text for each in found if each.status_code == 400]
    return Outcome(
        [Check("no image is blamed", not blamed, blamed[0][:90] if blamed else "none")],
        attacked=stranger.sent,
    )


async def many_headers(stage: Stage) -> Outcome:
    edge, _ = stage.pair()
    return await stage.under_attack(edge, strangers.many_headers)


SCENARIOS = [
    S(1, "announced-bodies", "200 connections that announce 10 MB each", announced_bodies),
    S(2, "repeated-scans", "progressive JPEGs of 196 kB with 2,380 scans, two at a time", repeated_scans),
    S(2, "stuck-workers", "the same of 9.6 MB", stuck_workers),
    S(2, "repeated-scans-at-the-cloud", "the same over gRPC, beside an edge", repeated_scans_at_the_cloud),
    S(3, "flat-webp", "a lossless WebP of 1 kB and 25 megapixels, ten a second",
      partial(_posted, make=files.flat_webp, kind="image/webp", at_once=400, every_s=0.1)),
    S(4, "half-heads", "half a head on 1,100 connections, 1,024 descriptors", half_heads),
    S(4, "dripping-heads", "a head of a byte a second on 1,100 connections, 1,024 descriptors",
      partial(_held, attack=strangers.dripping_heads, number=1100, files=1024)),
    S(4, "idle-connections", "2,000 idle connections, 1,024 descriptors",
      partial(_held, attack=strangers.idle, number=2000, files=1024)),
    S(4, "endless-head", "heads of 100 MB", partial(_held, attack=strangers.endless_head, number=100, files=None)),
    S(4, "out-of-descriptors", "120 idle connections, 128 descriptors", descriptors_in_words),
    S(9, "many-keys", "8 MB of JSON with 700,000 keys",
      partial(_posted, make=files.many_keys, kind="application/json", at_once=2, every_s=0.5)),
    S(9, "deep-json", "4 MB of JSON that only opens lists",
      partial(_posted, make=files.deep_json, kind="application/json", at_once=2, every_s=0.5)),
    S(9, "many-chunks", "a PNG of 800,000 empty chunks",
      partial(_posted, make=files.many_chunks, kind="image/png", at_once=2, every_s=0.5)),
    S(9, "many-segments", "a JPEG of two million empty comments",
      partial(_posted, make=files.many_segments, kind="image/jpeg", at_once=2, every_s=0.5)),
    S(9, "many-parts", "a form of 200,000 files",
      partial(_posted, make=files.many_parts, kind="multipart/form-data; boundary=x", at_once=2, every_s=0.5)),
    S(9, "text-bomb", "a PNG with notes that unpack to 60 MB",
      partial(_posted, make=files.text_bomb, kind="image/png", at_once=2, every_s=0.5)),
    S(9, "many-headers", "a million headers", many_headers),
]  # fmt: skip
