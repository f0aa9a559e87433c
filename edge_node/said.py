"""The part of an answer that depends on the bundle's task, as JSON."""

from __future__ import annotations

from offramp.bundle import Manifest
from offramp.engine.tier import Answer


def said(answer: Answer, manifest: Manifest) -> dict[str, object]:
    """The one label; or the labels, likeliest first; or the value and how far it may be off."""
    if (quantity := manifest.task.quantity) is not None:
        return {"quantity": quantity.name, "value": answer.value, "std": answer.std, "unit": quantity.unit}
    if manifest.task.kind == "multi_label":
        ranked = sorted(answer.label_indices, key=lambda index: -answer.probabilities[index])
        return {
            "labels": [
                {
                    "label": manifest.labels[index],
                    "class_index": index,
                    "probability": float(answer.probabilities[index]),
                }
                for index in ranked
            ]
        }
    index = answer.class_index
    return {"label": manifest.labels[index], "class_index": index}
