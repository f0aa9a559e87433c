"""The dashboard: what the edge nodes do, in a browser. It asks them; they know nothing of it."""
