"""Learned vectors beside a row's own, at the embeddings and as keys and values."""
