"""Decodes strangers' images in processes of their own: `decoders.py` is what a node uses."""
