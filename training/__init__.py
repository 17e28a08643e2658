"""Training: one loop for every policy."""
