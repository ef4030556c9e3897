"""Attention heads: which, where, what they do and what can be done to them; all families stand on this."""
