"""Merges that learn from data: coefficients and masks of task vectors, by gradient."""
