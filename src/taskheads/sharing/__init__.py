"""How tasks that share one backbone learn together."""
