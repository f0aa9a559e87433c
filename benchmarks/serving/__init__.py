"""Compares Offramp with the servers that a user would pick instead, which serve the plain backbone."""
