"""Job: inquiry calibration."""
