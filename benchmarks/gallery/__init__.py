"""Every recipe trained, calibrated and evaluated by the product's own commands, beside the published figures."""
