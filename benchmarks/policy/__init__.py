"""Policy training: results and cost of objectives."""
