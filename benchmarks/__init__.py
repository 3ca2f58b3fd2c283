"""Measurements, each to be repeated with `python -m benchmarks.<name>`."""
