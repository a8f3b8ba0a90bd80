"""What Lowtide costs, measured beside its peers: ``python -m benchmarks``. See docs/benchmarks.md."""
