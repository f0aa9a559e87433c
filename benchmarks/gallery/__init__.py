"""Every recipe trained, calibrated and evaluated by the product's own commands, next to the published figures."""
