"""Offramp against the servers a user would pick instead, serving the plain backbone."""
