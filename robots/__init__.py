"""Robots: the interface that a driver implements, the check of it, and the robots that are ready to use."""
