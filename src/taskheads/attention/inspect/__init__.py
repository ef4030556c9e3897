"""What attention heads do: one published method a file."""
