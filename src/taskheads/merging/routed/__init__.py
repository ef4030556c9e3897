"""Models that stay apart and are combined row by row or token by token."""
