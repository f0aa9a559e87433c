"""Whether a bundle in int8 answers here as fast, and as exactly, as where it was made."""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from offramp.bundle.manifest import Manifest

# Instructions that multiply 8-bit numbers and add the products up in 32 bits, as Linux names them.
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp"}
_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def multiplies_int8(cpuinfo: Path = _CPUINFO) -> bool | None:
    """Whether this processor has instructions for int8; None if nothing says so.

    Args:
        cpuinfo: where Linux tells what its processors can do.
    """
    if not cpuinfo.exists():
        return None
    return bool(_DOT_PRODUCTS & set(cpuinfo.read_text(encoding="utf-8").split()))


def doubts_about(manifest: Manifest, cpuinfo: Path = _CPUINFO) -> Sequence[str]:
    """What there is to say of a bundle in int8 on this machine, in whole sentences; nothing of one in float32."""
    if manifest.precision == "float32":
        return ()
    found = []
    if multiplies_int8(cpuinfo) is False:
        found.append(
            f"this {platform.machine()} processor has no instructions for int8 (VNNI, dot product): answers are right, "
            "but slower than they could be; compare with the bundle in float32"
        )
    made_with = manifest.provenance.versions.get("onnxruntime") if manifest.provenance else None
    if made_with is not None and made_with != onnxruntime.__version__:
        found.append(
            f"the bundle was quantised with ONNX Runtime {made_with}, and this is {onnxruntime.__version__}: a value "
            "may be rounded differently; `offramp evaluate` says what it answers here"
        )
    return found
