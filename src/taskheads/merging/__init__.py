"""Fine-tuned checkpoints become one model: a merge is a function on tensors of the same name."""
