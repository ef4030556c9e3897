"""The API, by family."""
