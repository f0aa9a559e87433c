"""The cloud node: a tier behind gRPC; with an upstream of its own it is a middle tier."""

import os

# Only gRPC knows of handshakes that fail, and says so at this level; the node takes what it writes into its log.
os.environ.setdefault("GRPC_VERBOSITY", "INFO")
