"""How good it was: errors, consistency, detection, coverage, latency."""
