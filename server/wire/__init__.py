"""The wire format: requests, reports and cards as pydantic models."""
