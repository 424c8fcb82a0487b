"""Inquiry (C-IP) as chat behaviour."""
