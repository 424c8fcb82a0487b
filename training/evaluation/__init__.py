"""Measures which controls help on a model and a task: `entrostat evaluate`."""
