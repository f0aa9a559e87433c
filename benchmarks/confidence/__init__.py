"""Which confidence measure ranks answers best, and which saves most work."""
