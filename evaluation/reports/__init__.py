"""Pages, pictures and tables of what was measured or recorded."""
