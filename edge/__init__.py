"""The device client: checks in, trains the bundle on private data with onnxruntime, uploads s_i H_i, sleeps."""
