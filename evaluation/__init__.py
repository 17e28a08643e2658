"""Measure: roll a policy out, count, draw and report."""
