"""Robots: the interface of drivers, its check, and the robots that come with Recede."""
