"""All that runs in a child process: the only place where torch and onnxruntime are imported."""
