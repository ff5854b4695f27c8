"""The aggregation server: runs, rounds and devices over gRPC, with all state on disk before it is promised."""

import os

# gRPC's C core writes lines of its own, also for strangers' failed handshakes; it looks when grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
