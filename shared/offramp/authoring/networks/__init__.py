"""Backbones cut into blocks, their EECs, and what each costs."""

from offramp.authoring.networks.early_exit import EarlyExitNetwork

__all__ = ["EarlyExitNetwork"]
