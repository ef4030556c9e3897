"""Changing what attention heads do: one published method a file."""
