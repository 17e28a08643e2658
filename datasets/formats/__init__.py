"""Readers of demonstration formats that others write."""
