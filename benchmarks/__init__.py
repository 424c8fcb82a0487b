"""One script per claim; each writes its result, machine and versions to `benchmarks/results`."""
