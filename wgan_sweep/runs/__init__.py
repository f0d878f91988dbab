"""A run: its directory, its identity, and its life from start to end."""
