"""Everything a running node needs: its settings, its calls, batching, offloading, metrics, traces."""

import os

# gRPC writes to standard error past our log, a line for each handshake that fails, and stops answering while nobody
# reads them. It reads this when it is first imported, which modules of this package do.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
