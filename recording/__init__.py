"""Record: demonstrations of whoever knows the task."""
