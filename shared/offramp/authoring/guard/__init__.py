"""Guards: they teach the exits of a bundle which samples are unlike those it knows. Needs `onnx`, and no torch."""
