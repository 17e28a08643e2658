"""Policies that other libraries have trained: their files and their networks."""
