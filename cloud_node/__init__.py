"""The cloud node: a tier behind gRPC; with an upstream of its own it is a middle tier."""

import os

# Only gRPC knows of handshakes that fail, and says so at this level; the node takes what it writes into its log.
if os.environ.get("GRPC_VERBOSITY", "NONE") == "NONE":  # which a process that serves otherwise hands on
    os.environ["GRPC_VERBOSITY"] = "INFO"
