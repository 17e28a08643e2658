"""Configurations: a dataclass for each command, the table of choices for each slot, and the YAML presets."""
