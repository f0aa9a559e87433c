"""An ordinary classifier → an early-exit network: where it can be cut, and how its blocks train as it would."""
