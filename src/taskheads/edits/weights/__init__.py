"""What rescales, shifts or changes weights and attention heads that are there already."""
