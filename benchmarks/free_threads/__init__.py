"""Whether Python without its lock lets one process do the work of several."""
