"""What every rival serves: an image in, the plain backbone's answer out. It does not need Offramp."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image


class Plain:
    """Pillow and ONNX Runtime with one thread, as on the edge node."""

    def __init__(self) -> None:
        spec = json.loads(Path(os.environ["PLAIN_SPEC"]).read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            spec["model"], options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._labels = spec["labels"]
        self._mode = spec["mode"]
        self._size = (spec["width"], spec["height"])

    def __call__(self, body: bytes) -> dict[str, Any]:
        """Answer one image."""
        image: Image.Image = Image.open(io.BytesIO(body))
        if image.size != self._size:
            image = image.resize(self._size, Image.Resampling.BILINEAR)
        if image.mode != self._mode:
            image = image.convert(self._mode)
        pixels = np.asarray(image).reshape(1, *reversed(self._size), -1)
        probabilities, confidence = self._session.run(["probabilities", "confidence"], {self._input: pixels})
        index = int(probabilities[0].argmax())
        return {"label": self._labels[index], "class_index": index, "confidence": float(confidence[0])}
