"""Job: difficulty probes."""
