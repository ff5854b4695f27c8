"""A bundle at work on onnxruntime: sessions, batches and data files. Shared by devices and the server's evaluation."""
