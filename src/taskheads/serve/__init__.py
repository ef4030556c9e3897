"""A model's answers over HTTP, from one process, and a page to play with."""
