"""Offloading: samples no local exit was sure of, finished by the next tier.

What a node asks is a chain, each link an `Offloader`: `payload` chooses what a sample is sent as, `sharing` joins what
several requests send, and `grpc` asks the upstream.
"""

from offramp.serving.offload.offloader import Accepts, Offloader, UpstreamState

__all__ = ["Accepts", "Offloader", "UpstreamState"]
