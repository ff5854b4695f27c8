"""Thirty people teach a transformer to tell what they do, and keep what their phones recorded."""
