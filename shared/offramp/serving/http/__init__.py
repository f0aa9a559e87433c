"""The HTTP front door: uvicorn, with limits on everything that a stranger can send or hold."""
