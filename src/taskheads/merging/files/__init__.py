"""Checkpoints on disk: read without loading them, written without holding them."""
