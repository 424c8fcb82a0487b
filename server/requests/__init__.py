"""Executes a plan for one HTTP request: generate, collect telemetry, merge the report."""
