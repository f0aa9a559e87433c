"""The cloud node: a tier behind gRPC; with an upstream of its own it is a middle tier."""
