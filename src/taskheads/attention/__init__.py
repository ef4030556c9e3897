"""Attention heads: which, where, what they do and what can be done to them; all families stand on this."""

# In a model's folder: the scores of its attention heads, as `taskheads inspect` found them.
SCORES = "scores.safetensors"
