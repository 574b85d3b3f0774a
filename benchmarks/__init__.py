"""Benchmarks: ratios within one run, written to benchmarks/results.json."""
