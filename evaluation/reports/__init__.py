"""Pages, pictures and tables of evaluations, runs and demonstrations."""
