"""Methods side by side on one's own data, under one budget of time."""
