"""What an operator changes in a running server: profiles and switched-off controls."""
