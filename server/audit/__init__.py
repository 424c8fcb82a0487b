"""The decision log: what was decided for each controlled request, and what it depended on."""
