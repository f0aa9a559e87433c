"""The same for a classifier in an ONNX file, which is cut as it is."""
