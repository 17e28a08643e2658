"""Encoders that turn an observation into conditioning."""
