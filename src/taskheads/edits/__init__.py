"""Edits: what a task changes inside the backbone that it shares with others."""
