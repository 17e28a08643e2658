"""Simulated tasks and their scripted experts."""
