"""Side-by-side benchmarks: programs, not tests. Each prints its figures with their spread."""
