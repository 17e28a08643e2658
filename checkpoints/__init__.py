"""Trained policies on disk: write, open, export, and import from other libraries."""
