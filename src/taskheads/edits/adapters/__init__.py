"""Small modules inside the layers, and what combines those of several tasks."""
