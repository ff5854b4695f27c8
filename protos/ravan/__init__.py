"""The protobuf package ``ravan``."""
