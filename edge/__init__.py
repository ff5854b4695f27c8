"""The device client: checks in, trains the bundle on private data with onnxruntime, uploads s_i H_i, sleeps."""

import os

# gRPC's C core writes lines of its own, also for strangers' failed handshakes; it looks when grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
