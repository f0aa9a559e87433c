"""Answers photos in threads of one process, with nothing but numpy, ONNX Runtime and Pillow, on any Python.

It reads a JSON object from the first line of its input and says whether there is a lock; at the next line it answers
photos for some seconds, and prints how many, and the memory that it takes. It ends at one more line, so that memory
which several share counts for all of them.
"""

from __future__ import annotations

import io
import itertools
import json
import platform
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image


def main() -> None:
    """Answer as the specification on the input says."""
    spec = json.loads(sys.stdin.readline())
    sessions = [_session(path) for path in spec["blocks"]]
    photos = [Path(path).read_bytes() for path in spec["photos"]]
    random.Random(0).shuffle(photos)
    # Through all blocks, and in a thread as later: what runs for the first time takes longer.
    in_full = {**spec, "thetas": [2.0] * (len(sessions) - 1) + [0.0]}
    _in_threads(spec["threads"], lambda _: _answer(photos[0], sessions, in_full))
    is_locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(json.dumps({"is_locked": is_locked, "version": platform.python_version()}), flush=True)
    sys.stdin.readline()
    end = time.monotonic() + spec["seconds"]
    counts = [0] * spec["threads"]

    def work(number: int) -> None:
        for photo in itertools.cycle(photos[number :: spec["threads"]]):
            if time.monotonic() >= end:
                return
            _answer(photo, sessions, spec)
            counts[number] += 1

    _in_threads(spec["threads"], work)
    print(json.dumps({"answers": sum(counts), "kb": _memory_kb()}), flush=True)
    sys.stdin.readline()


def _in_threads(count: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _answer(photo: bytes, sessions: list[onnxruntime.InferenceSession], spec: dict[str, Any]) -> int:
    """The class, from the first exit that is confident enough."""
    with Image.open(io.BytesIO(photo)) as image:
        feature = np.asarray(image.convert(spec["mode"]))[None]
    for session, theta in zip(sessions, spec["thetas"], strict=True):
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, {session.get_inputs()[0].name: feature}), strict=True))
        if found["confidence"].item() >= theta:
            break
        feature = found["feature"]
    return int(found["probabilities"].argmax())


def _session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _memory_kb() -> int:
    """What this process takes, with its share of what several take together."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
