"""Differences of low rank to linear maps: LoRA and what is built on it."""
