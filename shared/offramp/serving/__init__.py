"""Everything a running node needs: its settings, its calls, batching, offloading, metrics, traces."""

import os

# gRPC reads these when it is first imported, which modules of this package do. It writes to standard error past our
# log, a line for each handshake that fails, and stops answering while nobody reads them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Its newer way to wait for sockets hands what arrives to threads of its own before Python's. Without it, a lone message
# to another tier costs both nodes a quarter to a third less (`benchmarks.offload`).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
