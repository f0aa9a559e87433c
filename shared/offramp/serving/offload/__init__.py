"""Offloading: the next tier finishes the samples that no local exit was confident about.

A node calls a chain of `Offloader`s: `payload` chooses what to send for each sample, `sharing` merges the calls of
several requests, and `grpc` asks the upstream.
"""

from offramp.serving.offload.offloader import Accepts, Offloader, UpstreamState

__all__ = ["Accepts", "Offloader", "UpstreamState"]
