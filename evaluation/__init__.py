"""Evaluate policies: roll them out, count successes, and report."""
