"""Training regimes, on Lightning."""
