"""The reliability harness: every promise of the server, tried on real processes until it gives a figure."""
