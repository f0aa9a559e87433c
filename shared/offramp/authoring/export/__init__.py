"""From a trained network to a bundle."""

from offramp.authoring.export.bundling import export_bundle

__all__ = ["export_bundle"]
