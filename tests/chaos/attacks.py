"""Strangers: what costs them little and the node much (rows 1 to 4, 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from tests.chaos import files, strangers
from tests.chaos.stage import Attack, Check, Outcome, Scenario, Stage
from tests.chaos.strangers import Counting


async def announced_bodies(stage: Stage) -> Outcome:
    edge, _ = stage.pair()
    return await stage.under_attack(edge, strangers.announce, 200, 0)


async def held_bodies(stage: Stage) -> Outcome:
    edge, _ = stage.pair()
    return await stage.under_attack(edge, strangers.announce, 200, 2_000_000)


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
    """With no descriptor left, those that are connected already are never told that their image is bad."""
    edge, _ = stage.pair(files=128)
    sent = {
        "image/png": files.small_photo(),
        "image/jpeg": files.photos()[0],
        "image/webp": files.flat_webp(64, 64),
    }
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(strangers.connected(edge.address)) for _ in range(6)]
        stranger = stage.stranger(strangers.idle, edge.address, 120)
        await asyncio.to_thread(stranger.until_begun)
        await asyncio.sleep(1)
        answers = []
        for (reader, writer), (kind, photo) in zip(held, [*sent.items()] * 2, strict=True):
            writer.write(strangers.head(len(photo), kind) + photo)
            answers.append((await asyncio.wait_for(reader.read(2000), 20)).decode(errors="replace"))
    blamed = [each for each in answers if " 400 " in each[:20] or " 415 " in each[:20]]
    said = blamed[0].splitlines()[-1][:90] if blamed else f"{[each[9:12] for each in answers]}"
    return Outcome([Check("no image is blamed", not blamed, said)], attacked=stranger.sent)


async def many_headers(stage: Stage) -> Outcome:
    edge, _ = stage.pair()
    return await stage.under_attack(edge, strangers.many_headers)


SCENARIOS = [
    Scenario(1, "announced-bodies", "200 connections that announce up to 10 MB each", announced_bodies),
    Scenario(1, "held-bodies", "200 connections that stop after 2 MB of their body", held_bodies),
    Scenario(2, "repeated-scans", "progressive JPEGs of 196 kB with 2,380 scans, two at a time", repeated_scans),
    Scenario(2, "stuck-workers", "the same of 9.6 MB", stuck_workers),
    Scenario(2, "repeated-scans-at-the-cloud", "the same over gRPC, beside an edge", repeated_scans_at_the_cloud),
    Scenario(3, "flat-webp", "a lossless WebP of 1 kB and 25 megapixels, ten a second",
             partial(_posted, make=files.flat_webp, kind="image/webp", at_once=400, every_s=0.1)),
    Scenario(4, "half-heads", "half a head on 1,100 connections, 1,024 descriptors", half_heads),
    Scenario(4, "dripping-heads", "a head of a byte a second on 1,100 connections, 1,024 descriptors",
             partial(_held, attack=strangers.dripping_heads, number=1100, files=1024)),
    Scenario(4, "idle-connections", "2,000 idle connections, 1,024 descriptors",
             partial(_held, attack=strangers.idle, number=2000, files=1024)),
    Scenario(4, "reconnecting", "the same, each opened again half a second after the node ends it",
             partial(_held, attack=strangers.reconnecting, number=2000, files=1024)),
    Scenario(4, "endless-head", "heads of 100 MB",
             partial(_held, attack=strangers.endless_head, number=100, files=None)),
    Scenario(4, "out-of-descriptors", "120 idle connections, 128 descriptors", descriptors_in_words),
    Scenario(9, "many-keys", "8 MB of JSON with 700,000 keys",
             partial(_posted, make=files.many_keys, kind="application/json", at_once=2, every_s=0.5)),
    Scenario(9, "deep-json", "4 MB of JSON that only opens lists",
             partial(_posted, make=files.deep_json, kind="application/json", at_once=2, every_s=0.5)),
    Scenario(9, "many-chunks", "a PNG of 800,000 empty chunks",
             partial(_posted, make=files.many_chunks, kind="image/png", at_once=2, every_s=0.5)),
    Scenario(9, "many-segments", "a JPEG of two million empty comments",
             partial(_posted, make=files.many_segments, kind="image/jpeg", at_once=2, every_s=0.5)),
    Scenario(9, "many-parts", "a form of 200,000 files",
             partial(_posted, make=files.many_parts, kind="multipart/form-data; boundary=x", at_once=2, every_s=0.5)),
    Scenario(9, "text-bomb", "a PNG with notes that unpack to 60 MB",
             partial(_posted, make=files.text_bomb, kind="image/png", at_once=2, every_s=0.5)),
    Scenario(9, "many-headers", "a million headers", many_headers),
]  # fmt: skip
