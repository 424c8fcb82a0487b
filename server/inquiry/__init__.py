"""Inquiries (C-IP) over the chat API."""
