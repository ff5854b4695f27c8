"""Benchmarks of the project: what users have today beside what Ravan does, contenders in processes of their own."""
