"""Learn: one training loop, in one place."""
