"""Trained policies on disk: written, opened, exported, and imported from other libraries."""
