"""Benchmarks: each of its modules is a command of its own."""
