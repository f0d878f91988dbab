"""The config: its keys, its types, and the objects that it names."""
