"""The `offramp` command."""
