"""Policies: what is learned from demonstrations, and how action chunks are sampled from it."""
