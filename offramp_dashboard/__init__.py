"""The dashboard shows in a browser what the nodes do. It polls them; they do not know about it."""
