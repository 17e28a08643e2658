"""Run configurations: the dataclasses, the one table of choices, and the YAML presets."""
