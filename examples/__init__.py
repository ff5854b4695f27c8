"""Complete uses of Ravan on real data."""
