"""Backbones cut into blocks, the EECs behind them, and what each costs."""

from offramp.authoring.networks.early_exit import EarlyExitNetwork

__all__ = ["EarlyExitNetwork"]
