"""Demonstrations on disk, and as training windows."""
