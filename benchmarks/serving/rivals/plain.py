"""What every rival serves: an image in, the plain backbone's answer out. It does not need Offramp."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import onnxruntime
from decoding import Decoder


class Plain:
    """Pillow or simplejpeg, and ONNX Runtime, as on the edge node, with RIVAL_THREADS threads for one image."""

    def __init__(self) -> None:
        spec = json.loads(Path(os.environ["PLAIN_SPEC"]).read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["RIVAL_THREADS"])
        options.inter_op_num_threads = 1
        # As on the edge node: spinning threads steal the cores that the server's loop and the clients need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            spec["model"], options, providers=["CPUExecutionProvider"]
        )
        self._input = self.session.get_inputs()[0].name
        self._labels = spec["labels"]
        self._decode = Decoder(spec["preprocessing"], turbo=spec["turbo"])

    def __call__(self, body: bytes) -> dict[str, Any]:
        """Answer one image, and say which thread of which process did."""
        pixels = self._decode(body)
        probabilities, confidence = self.session.run(["probabilities", "confidence"], {self._input: pixels})
        index = int(probabilities[0].argmax())
        return {
            "label": self._labels[index],
            "class_index": index,
            "confidence": float(confidence[0]),
            "worker": threading.get_native_id(),
        }
