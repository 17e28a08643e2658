"""Robots and tasks in simulation."""
