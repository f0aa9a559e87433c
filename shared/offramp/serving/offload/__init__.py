"""Offloading: samples no local exit was sure of, finished by the next tier."""

from offramp.serving.offload.offloader import (
    Offloader,
    Resumed,
    Sent,
    TierTime,
    UpstreamAnswer,
    UpstreamState,
)

__all__ = ["Offloader", "Resumed", "Sent", "TierTime", "UpstreamAnswer", "UpstreamState"]
