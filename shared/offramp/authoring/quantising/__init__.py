"""A bundle's blocks in int8: which layers, with which ranges, and what that changes."""
