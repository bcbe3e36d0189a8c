"""A torch module to ONNX graphs: one file per kind of graph."""
