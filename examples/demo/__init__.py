"""Three phones on a bad network: what `make demo` shows."""
