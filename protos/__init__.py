"""Ravan's wire format: protobuf definitions and the modules generated from them."""
