"""One script per claim; each writes its result, with machine and versions, to `benchmarks/results`."""
