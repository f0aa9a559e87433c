"""Every figure the project claims, each printed by one command."""
