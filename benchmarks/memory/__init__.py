"""Peak memory of `train` and `evaluate` on more photos than memory could hold."""
