"""Measures what controls are worth on a model and a task: `entrostat evaluate`."""
