"""Fine-tuning the shared backbone for all tasks together."""
