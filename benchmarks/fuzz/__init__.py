"""Fuzzing by coverage: `python -m benchmarks.fuzz`. `tests/test_corpus.py` replays what once failed."""
