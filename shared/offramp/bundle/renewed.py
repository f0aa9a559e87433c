"""The manifest of a bundle whose blocks were changed: it has another id, and thresholds have to be chosen again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from offramp.bundle.manifest import Block, Manifest, manifest_of


def renewed(
    manifest: Manifest, blocks: Sequence[Block], graphs: Mapping[int, bytes], **changes: Any
) -> Manifest:
    """The manifest with other blocks and the digests of their graphs.

    Of the operating points only 'full' is left, which never stops early: what was measured was measured on others.

    Args:
        manifest: of the bundle as it was.
        blocks: all of them.
        graphs: their graphs, by number.
        changes: other fields that change.
    """
    served = manifest.operating_point
    full = served.model_copy(
        update={
            "name": "full",
            "thetas": (1.0,) * (manifest.num_exits - 1),
            "measured": None,
            "certificate": None,
            **changes.pop("point", {}),
        }
    )
    parts = {name: getattr(manifest, name) for name in type(manifest).model_fields}
    del parts["format_version"], parts["bundle_id"]
    parts |= {
        "blocks": tuple(
            block.model_copy(update={"sha256": hashlib.sha256(graphs[block.number]).hexdigest()})
            for block in blocks
        ),
        "operating_points": (full,),
        "default_operating_point": "full",
    }
    return manifest_of(**parts | changes)
