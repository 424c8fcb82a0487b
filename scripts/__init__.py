"""Scripts of the repository: generated pages."""
