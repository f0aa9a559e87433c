"""Everything a running node needs: its settings, its calls, batching, offloading, metrics, traces."""
