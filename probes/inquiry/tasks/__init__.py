"""Inquiry tasks that come with the package, one JSON file each."""
