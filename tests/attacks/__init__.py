"""Attempts to get in, to break what is stored, or to keep others from their work."""
