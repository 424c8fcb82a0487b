"""Calibrations of `/v1/decisions`, from rows with known answers."""
