"""Pure compute: pixels, blocks on a runtime, the tier, aggregation. No I/O, no clock."""
