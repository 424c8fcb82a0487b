"""What steering costs, and what it does in other wordings and to behavior."""
