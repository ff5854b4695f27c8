"""The aggregation server: runs, rounds and devices over gRPC, with all state on disk before it is promised."""
